"""Two real processes under torchrun: the same weights as one, stopped, resumed and failing together."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from projtrans.training.distributed import ALONE, Group
from tests.commands import Result, cli, done

pytestmark = pytest.mark.slow

SETS = [
    "training.epochs=2", "training.average=null", "model.dropout=0.0", "training.report_updates=3",
    "training.batch_tokens=80", "training.evaluate_test=false", "corpus.max_length=30",
]  # fmt: skip


def sets(*more: str) -> list[str]:
    return [item for assignment in (*SETS, *more) for item in ("--set", assignment)]


def launch(place: Path, *arguments: object, processes: int = 2) -> subprocess.Popen[str]:
    """Start the command under torchrun, on the processor whatever the machine has."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    line += ["-m", "--", "projtrans", "train", "--config", "tiny.yaml", "--device", "cpu", *arguments]
    return subprocess.Popen(
        [str(word) for word in line], cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=240)
    return Result(process.returncode, out, err)


def statuses(result: Result) -> set[int]:
    """The exit statuses that torchrun tells of."""
    return {int(code) for code in re.findall(r"exitcode\s*:\s*(\d+)", result.err)}


def same_weights(left: Path, right: Path, tolerance: float) -> None:
    ours, theirs = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance), name


def events_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy corpus prepared and its configuration."""
    folder = tmp_path_factory.mktemp("several")
    shutil.copytree(prepared.parent.parent, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    """A run of two processes, to the end."""
    result = ended(launch(place, "--run", "two", "--threads", 1, *sets()))
    assert result.status == 0, result.err
    assert result.err.count("updates an epoch") == 1, "the leader alone prints"
    assert "2 processes, each on" in result.err
    return place / "two"


def test_two_processes_train_as_one_does_with_twice_the_accumulation(
    place: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    done("train", "--config", "tiny.yaml", "--run", "one", "--threads", 1, *sets("training.accumulation=2"))
    one, updates = place / "one", events_of(two)[-1]["update"]
    assert updates == events_of(one)[-1]["update"] > 8
    assert events_of(two)[0]["update"] == 3
    same_weights(two, one, 2e-5)
    for ours, theirs in zip(events_of(two), events_of(one), strict=True):
        for key in ("event", "epoch", "update", "learning_rate"):
            assert ours.get(key) == theirs.get(key)
        for key in ("loss", "accuracy", "train_loss", "train_accuracy", "gradient_norm"):
            assert ours.get(key) == (pytest.approx(theirs[key], rel=1e-3) if key in theirs else None), key
    done("train", "--config", "tiny.yaml", "--run", "half", "--threads", 1, *sets())
    with pytest.raises(AssertionError):
        same_weights(two, place / "half", 2e-5)  # what one process does with half the batches


def first_pids(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that the launcher has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def until(path: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Wait for the text in a file that the process writes."""
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """With dropout and an average: what a run comes to that is not stopped."""
    result = ended(launch(place, "--run", "whole", *sets(*RANDOM)))
    assert result.status == 0, result.err
    return place / "whole"


RANDOM = (
    "model.dropout=0.3",
    "training.average=0.9",
    "training.epochs=10",
    "training.report_updates=1",
    "training.validation_sentences=1",
)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
@pytest.mark.parametrize("whom", ["launcher", "follower"])
def test_a_signal_to_any_process_stops_all_and_the_run_goes_on_exactly(place: Path, whole: Path, whom: str) -> None:
    run = place / f"stopped-{whom}"
    process = launch(place, "--run", run, *sets(*RANDOM))
    until(run / "metrics.jsonl", '"update": 9,', process)
    pids = first_pids(process)
    assert len(pids) == 2
    os.kill(process.pid if whom == "launcher" else pids[1], signal.SIGTERM)
    result = ended(process)
    assert result.status != 0
    assert len(result.errors) == 1, result.err
    again = f"torchrun --nproc-per-node 2 -m -- projtrans train --resume --run {run}"
    assert re.search(rf"^error: stopped at update \d+; resume with: {re.escape(again)}$", result.errors[0])
    assert whom == "launcher" or statuses(result) == {128 + signal.SIGTERM}
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists(), "nobody is left behind"
    resumed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *again.split()[1:], "--device", "cpu"],
        cwd=place, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    same_weights(run, whole, 0.0)
    keys = ("event", "update", "loss", "accuracy")
    assert [[event.get(key) for key in keys] for event in events_of(run)] == [
        [event.get(key) for key in keys] for event in events_of(whole)
    ]


SHORT_OF_MEMORY = """
import os

from projtrans.cli.main import main
from projtrans.training.updates import Objective

true, made = Objective.losses, 0

def losses(self, batch, *h_BTD):
    global made
    made += 1
    if os.environ["RANK"] == "1" and made > 4 and batch.sentences > 8:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return true(self, batch, *h_BTD)

Objective.losses = losses
main()
"""


def test_where_one_process_is_short_of_memory_all_go_back_and_halve_their_batches(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second update on: to the beginning of the run, where the last state was saved."""
    monkeypatch.chdir(place)
    equal = sets("training.by_length=false", "training.batch_sentences=16")
    Path("short.py").write_text(SHORT_OF_MEMORY, encoding="utf-8")
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--",
        "short.py",
        "train",
    ]
    line += ["--config", "tiny.yaml", "--device", "cpu", "--threads", "1", "--run", "short", *equal]
    found = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stderr
    [halved] = [event for event in events_of(Path("short")) if event["event"] == "halved"]
    assert (halved["update"], halved["halvings"], halved["batch_sentences"], halved["accumulation"]) == (0, 1, 8, 2)
    done("train", "--config", "tiny.yaml", "--run", "ample", "--threads", 1, *equal, "--set", "training.accumulation=2")
    same_weights(place / "short", place / "ample", 2e-5)


def test_another_number_of_processes_cannot_go_on(place: Path, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    result = cli("train", "--resume", "--run", two)
    assert result.status == 2
    assert "started as torchrun --nproc-per-node 2 -m -- projtrans train" in result.errors[0]


FAILURES = [
    ("the leader alone", ["--set", "training.epochs=0"], 2, "training.epochs"),
    ("all together", ["--set", "training.learning_rate=1e30", "--set", "training.warmup_updates=0"], 3, "diverged"),
]


@pytest.mark.parametrize(("reason", "arguments", "status", "message"), FAILURES, ids=[row[0] for row in FAILURES])
def test_an_error_ends_all_with_its_status_and_one_line(
    place: Path, reason: str, arguments: list[str], status: int, message: str
) -> None:
    result = ended(launch(place, "--run", f"failing {reason}", *sets(), *arguments))
    assert result.status != 0
    assert len(result.errors) == 1, result.err
    assert message in result.errors[0]
    assert statuses(result) == {status}


# ---------------------------------------------------------------------------------------------------- without sockets


@pytest.mark.parametrize(("batches", "size"), [(0, 2), (1, 2), (5, 2), (6, 3), (7, 4)])
def test_batches_are_dealt_out_once_each(batches: int, size: int) -> None:
    parts = [Group(rank, size).share(range(batches)) for rank in range(size)]
    assert sorted(number for part in parts for number in part) == list(range(batches))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert ALONE.share([3, 1]) == [3, 1]


def drawn(group: Group, seed: int, update: int) -> float:
    torch.manual_seed(0)
    group.seed(seed, update)
    return float(torch.rand(()))


def test_dropout_differs_by_process_and_update_and_the_leader_is_as_alone() -> None:
    alone = drawn(ALONE, 1, 5)
    assert drawn(Group(0, 2), 1, 5) == alone
    others = {drawn(Group(rank, 3), seed, update) for rank in (1, 2) for seed in (1, 2) for update in (5, 6)}
    assert len(others | {alone}) == 9
    assert drawn(Group(1, 3), 1, 5) == drawn(Group(1, 2), 1, 5)
