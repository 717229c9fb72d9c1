"""`translate` from file to file: stopped, killed or out of disk, it resumes to the same bytes, or says why not."""

import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from projtrans.errors import DataError
from projtrans.inference.resumable_output import ResumableOutput
from tests import killing_filter
from tests.cli.cases import PATIENCE
from tests.commands import Result, cli, done, full_disk, tree
from tests.toy import Toy, numbers, spell


def stop(after: int, patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the translation end with this error once so many windows are kept."""
    keep, kept = ResumableOutput.keep, []

    def counted(self: ResumableOutput, *place: int) -> None:
        keep(self, *place)
        kept.append(place)
        if len(kept) == after:
            raise error

    patch.setattr(ResumableOutput, "keep", counted)


def begun(
    brief: Path, *options: object, source: str = "in", after: int = 4, error: BaseException | None = None
) -> Result:
    """A translation that was stopped after some windows."""
    with pytest.MonkeyPatch.context() as patch:
        stop(after, patch, error or KeyboardInterrupt())
        return cli("translate", "--model", brief, "--input", source, "--output", "out", *options)


@pytest.mark.slow
def test_a_translation_killed_over_and_over_yields_identical_bytes(brief: Path, long: Path) -> None:
    root = Path(killing_filter.__file__).parent.parent
    arguments = [sys.executable, "-m", "tests.killing_filter", str(brief), "in", "--kills", "30"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.startswith("30 kills, ")
    assert finished.stdout.endswith("without one difference\n")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--format", "tsv", "--n-best", 3], ["--format", "json", "--n-best", 2]])
@pytest.mark.parametrize("ending", ["in", "in.gz"])
def test_a_stopped_translation_resumes_to_the_same_bytes(
    brief: Path, long: Path, options: list[object], ending: str
) -> None:
    Path("in.gz").write_bytes(gzip.compress(Path("in").read_bytes()))
    whole = ["translate", "--model", brief, "--input", ending, "--output", "whole", *options]
    done(*whole)
    Path("out").write_text("old\n", encoding="utf-8")
    result = begun(brief, *options, source=ending)
    assert (result.status, result.out) == (130, "")
    assert len(result.errors) == 1
    assert "stopped after 64 lines; resume with: projtrans" in result.errors[0]
    assert Path("out").read_text(encoding="utf-8") == "old\n"
    assert Path("whole").read_bytes().startswith(Path("out.unfinished").read_bytes())
    resumed = done("translate", "--model", brief, "--input", ending, "--output", "out", "--resume", *options)
    assert "64 lines are translated already" in resumed.err
    assert Path("out").read_bytes() == Path("whole").read_bytes()
    assert sorted(os.listdir()) == ["in", "in.gz", "out", "whole"]
    lines = Path("out").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 150 or "tsv" in options


CHANGES = [
    ("other search settings", ["--beam-size", 1], "beam_size (5 before, 1 now)"),
    ("another penalty", ["--length-penalty", 0.5], "length_penalty (1.0 before, 0.5 now)"),
    ("another format", ["--format", "json"], "format (text before, json now)"),
    ("another answer to errors", [], "on_error (blank before, None now)"),
    ("another input", ["in"], "input ("),
    ("another model", ["model"], "weights ("),
]


@pytest.mark.parametrize(("reason", "change", "told"), CHANGES, ids=[row[0] for row in CHANGES])
def test_what_was_made_with_other_settings_is_not_resumed(
    brief: Path, toy: Toy, long: Path, reason: str, change: list[Any], told: str
) -> None:
    begun(brief, "--on-error", "blank")
    options = ["--on-error", "blank", *change] if change else []
    model = brief
    if change == ["in"]:
        Path("in").write_text(Path("in").read_text(encoding="utf-8").replace("one", "two", 1), encoding="utf-8")
        options.pop()
    elif change == ["model"]:
        model = toy.run("projection")
        options.pop()
    before = tree(long)
    result = cli("translate", "--model", model, "--input", "in", "--output", "out", "--resume", *options)
    assert (result.status, result.out) == (1, "")
    assert len(result.err.split("\n")) == 2
    assert told in result.errors[0]
    assert "out.unfinished" in result.errors[0]
    assert tree(long) == before


def test_lines_that_fail_can_be_left_blank_on_resuming(brief: Path, long: Path) -> None:
    """The lines so far had no errors, so that the rest may be made with another --on-error."""
    with Path("in").open("r+b") as file:
        lines = file.read().split(b"\n")
        lines[100] = b"\xff"
        file.seek(0)
        file.truncate()
        file.write(b"\n".join(lines))
    done("translate", "--model", brief, "--input", "in", "--output", "whole", "--on-error", "blank")
    command = ["translate", "--model", brief, "--input", "in", "--output", "out"]
    result = cli(*command)
    assert result.status == 1
    assert "in:101: not valid UTF-8" in result.errors[0]
    assert "out.unfinished" in result.errors[0]
    whole = Path("whole").read_text(encoding="utf-8").split("\n")
    assert Path("out.unfinished").read_text(encoding="utf-8").split("\n")[:-1] == whole[:100]
    done(*command, "--resume", "--on-error", "blank")
    assert Path("out").read_bytes() == Path("whole").read_bytes()


def test_an_unfinished_output_is_not_lost_by_beginning_again(brief: Path, long: Path) -> None:
    begun(brief)
    before = tree(long)
    arguments = ["translate", "--model", brief, "--input", "in", "--output", "out"]
    result = cli(*arguments)
    assert (result.status, len(result.errors)) == (1, 1)
    assert "out.unfinished: an unfinished translation of 64 lines" in result.errors[0]
    assert "--resume" in result.errors[0]
    assert tree(long) == before
    Path("out.unfinished").unlink()
    done(*arguments)
    assert len(Path("out").read_bytes().split(b"\n")) == 151
    assert sorted(os.listdir()) == ["in", "out"]


DAMAGE = [
    ("out.unfinished", lambda data: data[:10], "shorter than its record says"),
    ("out.unfinished.json", lambda data: data[:10], "damaged"),
    ("out.unfinished.json", lambda data: b"[]", "damaged"),
    ("out.unfinished.json", lambda data: data.replace(b'"format": 1', b'"format": 9'), "another version"),
    ("out.unfinished.json", None, "no record"),
]


@pytest.mark.parametrize(("name", "change", "told"), DAMAGE)
def test_damaged_records_are_one_line(brief: Path, long: Path, name: str, change: Any, told: str) -> None:
    begun(brief)
    data = Path(name).read_bytes()
    Path(name).unlink() if change is None else Path(name).write_bytes(change(data))
    before = tree(long)
    result = cli("translate", "--model", brief, "--input", "in", "--output", "out", "--resume")
    assert result.status == 1
    assert len(result.err.split("\n")) == 2
    assert told in result.errors[0]
    assert tree(long) == before


def test_two_processes_do_not_write_the_same_output(long: Path) -> None:
    with ResumableOutput(Path("out"), {}, resume=False) as first:
        with (
            pytest.raises(DataError, match=r"^out\.unfinished: another process"),
            ResumableOutput(Path("out"), {}, resume=True),
        ):
            pass
        first.write(["one"])
        first.keep(1, 4)
        first.finish()
    assert Path("out").read_text(encoding="utf-8") == "one\n"


def test_a_full_disk_leaves_what_is_done(brief: Path, long: Path) -> None:
    done("translate", "--model", brief, "--input", "in", "--output", "whole", "--format", "json")
    arguments = ["translate", "--model", brief, "--input", "in", "--output", "out", "--format", "json"]
    with full_disk(9_000):
        result = cli(*arguments)
    assert (result.status, len(result.errors)) == (1, 1)
    done(*arguments, "--resume")
    assert Path("out").read_bytes() == Path("whole").read_bytes()
    assert sorted(os.listdir()) == ["in", "out", "whole"]


def test_the_input_may_be_the_output(brief: Path, long: Path) -> None:
    expected = done("translate", "--model", brief, "--input", "in").out
    done("translate", "--model", brief, "--input", "in", "--output", "in")
    assert Path("in").read_text(encoding="utf-8") == expected


RUNNER = "from projtrans.cli import filter; filter.WINDOW = 16; from projtrans.cli.main import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_the_command_that_goes_on(toy: Toy, long: Path, number: signal.Signals) -> None:
    lines = "".join(f"{spell(number)} {spell(number)}\n" for number in numbers(4000, seed=5))
    Path("my in").write_text(lines, encoding="utf-8")
    arguments = [
        "translate",
        "--model",
        str(toy.run("standard")),
        "--input",
        "my in",
        "--output",
        "my out",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + PATIENCE
    record = Path("my out.unfinished.json")
    while not (record.exists() and json.loads(record.read_text(encoding="utf-8"))["done"]["lines"]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert out == b""
    (line,) = err.decode().split("\n")[:-1]
    again = shlex.split(line.partition("resume with: ")[2])
    assert again == ["projtrans", *arguments, "--resume"]
    kept = json.loads(record.read_text(encoding="utf-8"))["done"]["lines"]
    assert f"stopped after {kept:,} lines" in line
    Path("my in").write_text("".join(lines.splitlines(keepends=True)[:kept]), encoding="utf-8")
    result = cli(*again[1:])
    assert "input (" in result.errors[0], "a shorter input is another"
