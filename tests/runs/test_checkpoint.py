"""Weights and state on disk: bit for bit what was saved, refused in one line when damaged, and never half written."""

import itertools
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from projtrans.errors import ProjtransError, RunError
from projtrans.runs import checkpoint
from projtrans.runs.checkpoint import State, load_model, load_state, save_model, save_state
from projtrans.runs.run_folder import Run
from tests.commands import full_disk, tree
from tests.toy import KINDS, Toy

TEMPORARY = ".*"


@pytest.fixture
def kept(toy: Toy, tmp_path: Path) -> Run:
    """A copy of a trained run that may be damaged."""
    return Run(Path(shutil.copytree(toy.run("projection"), tmp_path / "run")))


def header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the header of a safetensors file ends, and what it says: read by hand."""
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return end, json.loads(data[8:end])


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """Change the tensors or the record of a file that this project wrote."""
    tensors, record = load_file(path), json.loads(header(path)[1]["__metadata__"]["projtrans"])
    change(tensors, record)
    save_file(tensors, path, {"projtrans": json.dumps(record)})


def refused(run: Run) -> str:
    """The one line that loading the model fails with."""
    with pytest.raises(RunError) as caught:
        load_model(run, run.tokenizer())
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_every_weight_comes_back(toy: Toy, kept: Run, kind: str) -> None:
    """Whatever the bits mean: also infinities, NaN, denormal numbers and minus zero."""
    run = Run(Path(shutil.copytree(toy.run(kind), kept.folder.parent / kind)))
    tokenizer = run.tokenizer()
    model = load_model(run, tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            bits = torch.randint(-(2**31), 2**31, parameter.shape, generator=generator, dtype=torch.int64)
            parameter.copy_(bits.to(torch.int32).view(torch.float32))
    save_model(run, dict(model.named_parameters()), tokenizer, {})
    again = dict(load_model(run, tokenizer).named_parameters())
    assert again.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.view(torch.int32), again[name].view(torch.int32)), name


def test_a_loaded_model_holds_what_the_file_holds(toy: Toy) -> None:
    run = Run(toy.run("standard"))
    weights = load_file(run.model_file)
    model = load_model(run, run.tokenizer())
    assert not model.training
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: parameter.tolist() for name, parameter in model.named_parameters()
    }


def test_a_state_comes_back_with_its_types_and_its_record(tmp_path: Path) -> None:
    tensors = {
        "whole": torch.arange(5),
        "bytes": torch.get_rng_state(),
        "double": torch.tensor([0.1, float("nan"), float("-inf")], dtype=torch.float64),
        "half": torch.randn(3, 2).bfloat16(),
        "single": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
    }
    record = {"counters": {"update": 7, "best": None, "sums": [0.1, 1e300, 0.0]}, "σ": "ñ\n\"'"}
    save_state(Run(tmp_path), State(record, tensors))
    state = load_state(Run(tmp_path))
    assert {key: state.record[key] for key in record} == record
    assert state.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = state.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found.nan_to_num(9.0), tensor.nan_to_num(9.0)), name


def test_the_last_state_saved_is_the_one_that_is_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for update in range(3):
        save_state(run, State({"update": update}, {"x": torch.full((2,), float(update))}))
    state = load_state(run)
    assert (state.record["update"], state.tensors["x"].tolist()) == (2, [2.0, 2.0])
    assert sorted(tree(tmp_path)) == ["checkpoints", "checkpoints/last.safetensors"]


# ---------------------------------------------------------------------------------------------------- what the file is


@pytest.mark.parametrize("file", ["model_file", "state_file"])
def test_the_files_are_plain_safetensors(toy: Toy, file: str) -> None:
    """A header of JSON and the bytes of the tensors: nothing that would have to be unpickled."""
    path = getattr(Run(toy.run("projection")), file)
    end, entries = header(path)
    record = json.loads(entries.pop("__metadata__")["projtrans"])
    assert record["format"] == (checkpoint.FORMAT if file == "model_file" else checkpoint.STATE_FORMAT)
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    assert spans[0][0] == 0
    assert spans[-1][1] == path.stat().st_size - end
    assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))


def test_the_model_file_holds_single_precision_and_tied_weights_once(toy: Toy) -> None:
    run = Run(toy.run("projection"))
    _, entries = header(run.model_file)
    entries.pop("__metadata__")
    assert {entry["dtype"] for entry in entries.values()} == {"F32"}
    tokenizer = run.tokenizer()
    vocabulary = [name for name, entry in entries.items() if entry["shape"] == [tokenizer.source_size, 32]]
    assert len(vocabulary) == 1  # source, target and output share it


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), torch.save])
@pytest.mark.parametrize("file", ["model_file", "state_file"])
def test_nothing_is_unpickled(kept: Run, tmp_path: Path, file: str, write: Callable[[Any, Path], None]) -> None:
    write(Bomb(tmp_path / "exploded"), getattr(kept, file))
    with pytest.raises(RunError, match=r"safetensors"):
        load_model(kept, kept.tokenizer()) if file == "model_file" else load_state(kept)
    assert not (tmp_path / "exploded").exists()


# ----------------------------------------------------------------------------------------------------------- damage


TRUNCATIONS: list[tuple[str, Callable[[int, int], int]]] = [
    ("nothing is left", lambda end, size: 0),
    ("inside the length of the header", lambda end, size: 5),
    ("after the length of the header", lambda end, size: 8),
    ("inside the header", lambda end, size: end // 2),
    ("the last byte of the header", lambda end, size: end - 1),
    ("no weights", lambda end, size: end),
    ("one byte of the weights", lambda end, size: end + 1),
    ("half of the weights", lambda end, size: (end + size) // 2),
    ("the last byte of the weights", lambda end, size: size - 1),
]


@pytest.mark.parametrize(("reason", "length"), TRUNCATIONS, ids=[reason for reason, _ in TRUNCATIONS])
def test_a_truncated_file_is_refused_by_name(kept: Run, reason: str, length: Callable[[int, int], int]) -> None:
    for path in (kept.model_file, kept.state_file):
        os.truncate(path, length(header(path)[0], path.stat().st_size))
    assert str(kept.model_file) in refused(kept)
    with pytest.raises(RunError) as caught:
        load_state(kept)
    assert str(kept.state_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def _longer(run: Run) -> None:
    with run.model_file.open("ab") as file:
        file.write(b"more")


def _text(run: Run) -> None:
    run.model_file.write_text("not a model\n" * 100, encoding="utf-8")


def _huge_header(run: Run) -> None:
    run.model_file.write_bytes(b"\xff" * 8 + run.model_file.read_bytes()[8:])


def _foreign(run: Run) -> None:
    save_file(load_file(run.model_file), run.model_file, {"format": "pt"})


def _foreign_record(run: Run) -> None:
    save_file(load_file(run.model_file), run.model_file, {"projtrans": "format 1"})


def _record_is_a_list(run: Run) -> None:
    save_file(load_file(run.model_file), run.model_file, {"projtrans": "[1]"})


def _newer(run: Run) -> None:
    rewritten(run.model_file, lambda tensors, record: record.update(format=checkpoint.FORMAT + 1))


def _missing_weight(run: Run) -> None:
    rewritten(run.model_file, lambda tensors, record: tensors.pop("output.bias"))


def _extra_weight(run: Run) -> None:
    rewritten(run.model_file, lambda tensors, record: tensors.update(more=torch.zeros(1)))


def _wrong_shape(run: Run) -> None:
    rewritten(run.model_file, lambda tensors, record: tensors.update({"output.bias": torch.zeros(3)}))


def _folder(run: Run) -> None:
    run.model_file.unlink()
    run.model_file.mkdir()


def _gone(run: Run) -> None:
    run.model_file.unlink()


DAMAGE: list[tuple[str, Callable[[Run], None], str]] = [
    ("bytes after the weights", _longer, "model.safetensors"),
    ("a text file", _text, "model.safetensors"),
    ("a header longer than the file", _huge_header, "model.safetensors"),
    ("safetensors of another project", _foreign, "format"),
    ("a record that is not JSON", _foreign_record, "model.safetensors"),
    ("a record that is no object", _record_is_a_list, "model.safetensors"),
    ("a newer format", _newer, f"format {checkpoint.FORMAT + 1}"),
    ("a weight too few", _missing_weight, "output.bias"),
    ("a weight too many", _extra_weight, "weight more"),
    ("a weight of another shape", _wrong_shape, "output.bias"),
    ("a folder in its place", _folder, "model.safetensors"),
    ("no model", _gone, "model.safetensors"),
]


@pytest.mark.parametrize(("reason", "damage", "told"), DAMAGE, ids=[reason for reason, _, _ in DAMAGE])
def test_a_damaged_or_foreign_model_is_refused(
    kept: Run, reason: str, damage: Callable[[Run], None], told: str
) -> None:
    damage(kept)
    message = refused(kept)
    assert told in message
    assert str(kept.folder) in message


def test_a_model_of_another_tokenizer_is_refused(kept: Run) -> None:
    rewritten(kept.model_file, lambda tensors, record: record.update(tokenizer="0" * 64))
    assert "tokenizer" in refused(kept)


def test_a_state_of_a_newer_format_is_refused(kept: Run) -> None:
    rewritten(kept.state_file, lambda tensors, record: record.update(format=99))
    with pytest.raises(RunError, match="format 99"):
        load_state(kept)


def test_a_run_without_a_state_says_what_to_do(kept: Run) -> None:
    kept.state_file.unlink()
    with pytest.raises(RunError, match=r"no checkpoint .* --run DIR"):
        load_state(kept)


# ------------------------------------------------------------------------------------------------------- atomic writes


def write_model(run: Run) -> None:
    """Save a model that differs from the one that is there."""
    tokenizer = run.tokenizer()
    model = load_model(run, tokenizer)
    weights = {name: parameter.detach() + 1 for name, parameter in model.named_parameters()}
    save_model(run, weights, tokenizer, {})


def write_state(run: Run) -> None:
    """Save a state that differs from the one that is there."""
    state = load_state(run)
    save_state(run, State({}, {name: torch.zeros_like(tensor) for name, tensor in state.tensors.items()}))


WRITERS = pytest.mark.parametrize("write", [write_model, write_state])


@WRITERS
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    kept: Run, write: Callable[[Run], None], share: float
) -> None:
    before = tree(kept.folder)
    size = kept.model_file.stat().st_size
    with full_disk(int(size * share)), pytest.raises((OSError, ProjtransError)):
        write(kept)
    assert tree(kept.folder) == before


@WRITERS
@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_the_last_moment_leaves_the_old_file_and_nothing_else(
    kept: Run, monkeypatch: pytest.MonkeyPatch, write: Callable[[Run], None], call: str, error: BaseException
) -> None:
    before = tree(kept.folder)

    def fail(*unused: Any, **also_unused: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write(kept)
    monkeypatch.undo()
    assert tree(kept.folder) == before


@WRITERS
def test_a_successful_write_replaces_one_file(kept: Run, write: Callable[[Run], None]) -> None:
    before = tree(kept.folder)
    write(kept)
    after = tree(kept.folder)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in after) == 1
