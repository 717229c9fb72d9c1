"""The run folder: made once, opened anywhere, its log and runs/latest always in order."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from projtrans import config
from projtrans.comparison import figure
from projtrans.data.corpus import CorpusConfig
from projtrans.data.data_folder import load_tokenizer, read_split
from projtrans.errors import ConfigError, ProjtransError, RunError
from projtrans.model.transformer import ModelConfig
from projtrans.runs.run_folder import Run, free_folder, open_run
from projtrans.runs.settings import Config, resolve
from projtrans.search.decoding import DecodingConfig
from projtrans.training.events import Finished, Progress, Started, Validated, Validating
from projtrans.training.train import train
from tests.commands import cli, done
from tests.toy import KINDS, TINY, Toy, spell

EVENT = {"event": "train", "epoch": 1, "loss": 1.5}


# --------------------------------------------------------------------------------------------------- make and open


def test_a_run_keeps_its_configuration_and_tokenizer(toy: Toy, tmp_path: Path) -> None:
    settings, tokenizer = config.build(Config, TINY), load_tokenizer(toy.data)
    run = Run(tmp_path / "deep" / "run")
    run.create(config.dump(settings), tokenizer)
    opened = open_run(run.folder)
    assert config.build(Config, opened.raw_config) == settings
    assert opened.section("corpus", CorpusConfig) == settings.corpus
    assert opened.section("model", ModelConfig) == settings.model
    assert opened.section("decoding", DecodingConfig) == settings.decoding
    assert opened.tokenizer().checksum == tokenizer.checksum


def test_a_folder_that_holds_a_run_is_never_reused(toy: Toy, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(toy.data)
    run = Run(tmp_path / "run")
    run.create({"training": {"seed": 1}}, tokenizer)
    with pytest.raises(ConfigError, match=r"holds a run already; use --resume"):
        run.create({"training": {"seed": 2}}, tokenizer)
    assert run.raw_config == {"training": {"seed": 1}}


def test_a_file_in_the_way_is_left_alone(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(ProjtransError, match="not a directory"):
        Run(tmp_path / "run").create({}, load_tokenizer(toy.data))
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def test_what_is_no_run_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    cases: list[tuple[Path | None, str]] = [
        (None, "runs/latest: no such folder; train one"),
        (Path("nowhere"), "nowhere: no such folder"),
        (Path("file"), "run file: "),
        (Path("empty"), "empty: not a run"),
    ]
    for folder, told in cases:
        with pytest.raises(RunError) as caught:
            open_run(folder)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_configuration_that_does_not_fit_names_run_and_setting(toy: Toy, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(toy.run("standard"), tmp_path / "run")))
    run.config_file.write_text("model: {widht: 3}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"run .*: config.yaml: model.widht.*width"):
        run.section("model", ModelConfig)
    run.config_file.write_text("model: [\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"line \d"):
        run.section("model", ModelConfig)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_folder_moved_elsewhere_translates_as_before(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It holds all that translating needs: nothing else goes along, not even a checkpoint."""
    monkeypatch.chdir(toy.folder)
    lines = "".join(f"{spell(number)}\n" for number in ("12", "7000", "31415"))
    here = done("translate", "--model", toy.run(kind), stdin=lines).out
    moved = Path(shutil.copytree(toy.run(kind), tmp_path / "away" / "model"))
    shutil.rmtree(moved / "checkpoints")
    monkeypatch.chdir(tmp_path / "away")
    assert done("translate", "--model", "model", stdin=lines).out == here
    assert len(here.split("\n")) == 4


def test_the_command_leaves_the_files_of_the_contract(toy: Toy) -> None:
    for kind in KINDS:
        assert sorted(path.name for path in toy.run(kind).iterdir()) == [
            "checkpoints",
            "config.yaml",
            *(["curves.png"] if figure.installed() else []),
            "metrics.jsonl",
            "model.safetensors",
            "summary.json",
            "test.hypotheses.txt",
            "test.json",
            "tokenizer.model",
        ]
        states = sorted(path.name for path in (toy.run(kind) / "checkpoints").iterdir())
        assert states == ["good.safetensors", "last.safetensors", "lock"]


# --------------------------------------------------------------------------------------------------------- the log


def event(update: int, **more: Any) -> dict[str, Any]:
    return {**EVENT, "update": update, **more}


def test_the_log_is_one_object_a_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    events = [event(1), event(2, sigma={"σ": [0.1]}, text="two\nlines \u2028")]
    for record in events:
        run.append_metrics(record)
    lines = run.metrics_file.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == events
    assert lines[-1] == ""


TAILS = [
    ("nothing", b""),
    ("a whole line", b'{"event": "train", "update": 4}\n'),
    ("a line cut inside an object", b'{"event": "train", "epo'),
    ("a line cut inside a character", '{"text": "ñ'.encode()[:-1]),
    ("zeros, as a file system leaves them after a power cut", b"\0\0\0\0"),
]


@pytest.mark.parametrize(("reason", "tail"), TAILS, ids=[reason for reason, _ in TAILS])
def test_a_log_is_cut_back_to_what_it_was(tmp_path: Path, reason: str, tail: bytes) -> None:
    """Whatever stands there after a crash, what is logged next begins a line."""
    run, kept = Run(tmp_path), [event(1), event(2), event(2, event="valid")]
    for record in kept:
        run.append_metrics(record)
    size = run.metrics_bytes
    with run.metrics_file.open("ab") as file:
        file.write(tail)
    run.truncate_metrics(size)
    run.append_metrics(event(99))
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [*kept, event(99)]


def test_a_log_that_is_shorter_than_the_state_knows_stays_as_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics(event(1))
    before = run.metrics_file.read_bytes()
    run.truncate_metrics(10_000)
    assert run.metrics_file.read_bytes() == before


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics(event(1, loss=float("nan"), norm=float("-inf"), sigma={"deep": [float("inf")]}))
    text = run.metrics_file.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text


def test_no_log_is_nothing_to_cut(tmp_path: Path) -> None:
    Run(tmp_path).truncate_metrics(3)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ names and runs/latest


def test_a_free_folder_is_the_first_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken = []
    for expected in ("runs/x", "runs/x-2", "runs/x-3"):
        folder = free_folder("x")
        assert str(folder) == expected
        folder.mkdir(parents=True)
        taken.append(folder)
    taken[1].rmdir()
    Path("runs/x-2").touch()  # a file is in the way just as well
    assert free_folder("x") == Path("runs/x-4")
    assert free_folder("y") == Path("runs/y")


def test_latest_points_to_the_run_that_was_marked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "one"):
        Path("runs", name).mkdir(parents=True, exist_ok=True)
        Run(Path("runs", name)).mark_latest()
        assert os.readlink("runs/latest") == name
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", "one", "two"]


def test_latest_is_for_runs_in_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path("elsewhere/run"), Path("runs/deeper/run"), tmp_path / "run"):
        folder.mkdir(parents=True)
        Run(folder).mark_latest()
    assert not Path("runs/latest").is_symlink()
    absolute = tmp_path / "runs" / "absolute"
    absolute.mkdir()
    Run(absolute).mark_latest()
    assert os.readlink("runs/latest") == "absolute"


def test_a_real_folder_called_latest_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/latest").mkdir(parents=True)
    Path("runs/x").mkdir()
    Run(Path("runs/x")).mark_latest()
    assert Path("runs/latest").is_dir()
    assert not Path("runs/latest").is_symlink()


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    Path("runs/latest").symlink_to("deleted")
    Run(Path("runs/x")).mark_latest()
    assert os.readlink("runs/latest") == "x"


@pytest.mark.parametrize("named", ["runs/latest", "./runs/latest", "{absolute}/runs/latest", "runs/latest/"])
def test_going_on_with_latest_by_any_name_keeps_the_link(workshop: Path, named: str) -> None:
    target = os.readlink("runs/latest")
    folder = named.format(absolute=workshop)
    done("train", "--resume", "--run", folder, "--set", "training.epochs=9", "--threads", 1)
    assert os.readlink("runs/latest") == target
    assert done("translate", spell("12")).lines


def test_latest_moves_at_the_first_saved_checkpoint(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: a run that dies young would hide a model that works."""
    monkeypatch.chdir(tmp_path)
    Path("runs/old").mkdir(parents=True)
    Path("runs/latest").symlink_to("old")
    settings = resolve(config.dump(config.build(Config, TINY)), sets=["training.epochs=2", "training.report_updates=1"])
    run = Run(free_folder("new"))
    seen: list[tuple[type, str]] = []
    train(
        settings,
        run,
        load_tokenizer(toy.data),
        {name: read_split(toy.data, name) for name in ("train", "valid", "test")},
        device=torch.device("cpu"),
        report=lambda event: seen.append((type(event), os.readlink("runs/latest"))),
    )
    first = next(index for index, (kind, _) in enumerate(seen) if kind is Validated)
    assert {kind for kind, _ in seen[:first]} == {Started, Progress, Validating}
    assert {link for _, link in seen[: first + 1]} == {"old"}
    assert {link for _, link in seen[first + 1 :]} == {"new"}
    assert seen[-1][0] is Finished


def test_a_run_that_fails_before_its_first_checkpoint_leaves_latest(workshop: Path) -> None:
    before = os.readlink("runs/latest")
    result = cli(
        "train", "--config", "tiny.yaml", "--set", "training.learning_rate=1e30", "--set", "training.warmup_updates=0"
    )
    assert result.status != 0
    assert os.readlink("runs/latest") == before
