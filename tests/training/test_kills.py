"""Kills, full disks and damaged states: what is on the disk is always something to resume from."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from projtrans import files
from projtrans.errors import Interrupted, ProjtransError
from projtrans.runs.run_folder import Run
from projtrans.training.events import Event, Recovered
from tests import killing
from tests.commands import full_disk
from tests.training.bench import Bench, after, same_run, settings_of


@pytest.mark.slow
def test_a_run_that_is_killed_over_and_over_ends_as_one_that_is_not() -> None:
    root = Path(killing.__file__).parent.parent
    arguments = [sys.executable, "-m", "tests.killing", "--kills", "20"]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, cwd=root)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("20 kills of ")
    assert finished.stdout.endswith("without one difference\n")


@pytest.mark.slow
def test_a_difference_is_found(tmp_path: Path) -> None:
    """Two trainings that differ in one pair; and one that was stopped, whose log lacks a line."""
    made = killing.bench(tmp_path)
    made.train("one")
    shown = made.splits["train"]
    made.splits["train"] = [*shown[:-1], shown[0]]
    made.train("other")
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    assert killing.differences(one, one) == []
    found = killing.differences(one, other)
    assert {"model.safetensors", "metrics.jsonl", "model.output.bias", "optimizer.exp_avg.output.bias"} <= set(found)
    same = one.metrics_file.read_bytes()
    one.metrics_file.write_bytes(same[: same.rstrip().rfind(b"\n") + 1])
    made.splits["train"] = shown
    made.train("again")
    assert killing.differences(Run(tmp_path / "again"), one) == ["metrics.jsonl"]


@pytest.mark.parametrize("size", [0, 100, 20_000, 150_000])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(bench: Bench, size: int) -> None:
    """The state is larger than all of these, the model than some, the log than the smallest."""
    settings = settings_of("training.epochs=2", "training.report_updates=1")
    whole, run = bench.train(settings), bench.new()
    with after(3) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    assert size < run.state_file.stat().st_size
    before = files.checksum(run.state_file)
    with full_disk(size), pytest.raises((OSError, ProjtransError)):
        bench.train(settings, run, resume=True)
    assert files.checksum(run.state_file) == before
    bench.train(settings, run, resume=True)
    same_run(whole, run)


def test_what_killed_writers_leave_is_removed(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.new()
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    left = [run.state_file.with_name(".last.safetensors.x1y2"), run.folder / ".model.safetensors.abc"]
    for file in left:
        file.write_bytes(b"half")
    bench.train(settings, run, resume=True)
    assert not any(file.exists() for file in left)


def test_a_run_killed_before_its_first_state_begins(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.created(settings)
    bench.train(settings, run, resume=True)
    same_run(bench.train(settings), run)


def test_a_damaged_state_is_told_and_the_one_before_it_taken(bench: Bench) -> None:
    """The last good state lies on the same way, so the end is the same."""
    settings = settings_of("training.epochs=3", "training.report_updates=1")
    whole, run, seen = bench.train(settings), bench.new(), list[Event]()
    per_epoch = bench.trainer(settings).plan.per_epoch
    with after(per_epoch + 2) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    os.truncate(run.state_file, run.state_file.stat().st_size - 1)
    bench.train(settings, run, resume=True, report=seen.append)
    (told,) = [event for event in seen if isinstance(event, Recovered)]
    assert str(run.state_file) in told.damage
    assert told.update == per_epoch
    same_run(whole, run)


def test_a_link_stays_what_it_was_when_its_source_is_replaced(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    for text in ("one", "two", "two"):
        files.write_text(source, text)
        files.link(source, path)
        files.link(source, path)  # again, as after a kill
        files.write_text(source, "newer")
        assert path.read_text() == text
    assert sorted(tmp_path.iterdir()) == [path, source]


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*unused: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.write_text(tmp_path / "source", "one")
    files.link(tmp_path / "source", tmp_path / "path")
    files.write_text(tmp_path / "source", "two")
    assert (tmp_path / "path").read_text() == "one"
