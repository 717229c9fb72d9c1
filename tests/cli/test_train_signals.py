"""Signals to `train`: the state is saved, the error names the command that resumes, and that command works."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from projtrans.runs.checkpoint import load_state
from projtrans.runs.run_folder import Run
from tests.cli.cases import PATIENCE, one_error, with_set
from tests.commands import Result, command, done

pytestmark = pytest.mark.slow


def started(*arguments: str, folder: Path, wait_for: Path) -> subprocess.Popen[bytes]:
    """A running process, once a file that it writes has something in it."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_something_in(wait_for, process)
    return process


LONG = with_set(
    "training.epochs=12", "training.report_updates=1", "training.validation_sentences=1", "training.evaluate_test=false"
)


@pytest.mark.parametrize(("name", "number"), [("mine", signal.SIGINT), ("my own run", signal.SIGTERM)])
def test_a_signal_saves_the_state_and_the_command_it_names_goes_on(
    workshop: Path, name: str, number: signal.Signals
) -> None:
    folder = Path("runs") / name
    process = started(*LONG, "--run", str(folder), "--threads", "1", folder=workshop,
                      wait_for=workshop / folder / "metrics.jsonl")  # fmt: skip
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    line = one_error(Result(process.returncode, out.decode(), err.decode()), 128 + number, "stopped at update")
    assert (folder / "checkpoints" / "last.safetensors").is_file()
    assert os.readlink("runs/latest") == folder.name
    resume = shlex.split(line.partition("resume with: ")[2])
    assert resume[:2] == ["projtrans", "train"]
    done(*resume[1:])
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"] == 12


def on_a_terminal(script: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The shell script as session leader on a terminal of its own, and our end of that terminal."""
    ours, theirs = pty.openpty()
    terminal = f"exec <>{os.ttyname(theirs)} >&0 2>&0; "
    process = subprocess.Popen(["sh", "-c", terminal + script], cwd=folder, start_new_session=True)
    os.close(theirs)
    return process, ours


def wait_for_something_in(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (file.is_file() and file.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("before", "status"), [("", 128 + signal.SIGHUP), ("trap '' HUP; ", 128 + signal.SIGTERM)])
def test_a_terminal_that_goes_away_stops_training_with_its_state_saved_but_for_nohup(
    workshop: Path, before: str, status: int
) -> None:
    words = [*LONG, "--run", "runs/mine", "--threads", "1", *(["--quiet"] if before else [])]
    process, terminal = on_a_terminal(before + "exec " + shlex.join(command(*words)), workshop)
    wait_for_something_in(workshop / "runs" / "mine" / "metrics.jsonl", process)
    os.close(terminal)
    metrics = workshop / "runs" / "mine" / "metrics.jsonl"
    if before:
        size = metrics.stat().st_size
        line = size_of_a_line(metrics)
        while metrics.stat().st_size < size + 4 * line:  # a training that stops at a signal makes one more update
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
    assert process.wait(timeout=PATIENCE) == status
    last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["update"]
    assert load_state(Run(workshop / "runs" / "mine")).record["counters"]["update"] == last
    done("train", "--resume", "--run", "runs/mine", "--threads", "1")


def size_of_a_line(file: Path) -> int:
    return len(file.read_bytes().splitlines(keepends=True)[0])


def test_the_command_named_goes_on_where_the_data_lie_elsewhere(workshop: Path) -> None:
    shutil.move("data/toy", "elsewhere")
    arguments = [*LONG, "--run", "runs/mine", "--data", "elsewhere", "--threads", "1"]
    process = started(*arguments, folder=workshop, wait_for=workshop / "runs" / "mine" / "metrics.jsonl")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    resume = shlex.split(err.decode().partition("resume with: ")[2])
    done(*resume[1:])
