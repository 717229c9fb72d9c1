"""Kills a training run over and over, and compares what it ends as with the run that nobody touched.

    python -m tests.killing [--kills N] [--seed N]

Every run is a process of its own, forked after the imports, and dies by SIGKILL or its like: before a call of the
operating system that writes or renames, between any two steps of Python, after some bytes of a file, or whenever its
parent likes. All moments but the last kind are drawn from the seed, and none decides what is compared.
"""

import argparse
import copy
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.data_folder import load_tokenizer, read_split
from projtrans.data.prepare import prepare
from projtrans.data.tokenizer import Tokenizer
from projtrans.runs import curves
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, resolve
from projtrans.training.train import train

CALLS = {"open", "mkdir", "fsync", "fchmod", "chmod", "rename", "replace", "link", "symlink", "unlink", "truncate"}
"""What Python calls to change files; the bytes themselves are written by `write` and by safetensors."""

CLOCK = {"seconds", "training_seconds", "target_tokens_per_second", "since"}

SETTINGS: dict[str, Any] = {
    "model": {
        "layers": {"encoder": 1, "decoder": 1},
        "width": 32,
        "heads": 2,
        "feedforward": 64,
        "dropout": 0.2,
    },
    "training": {
        "batch_tokens": 320,
        "accumulation": 2,
        "learning_rate": 0.01,
        "warmup_updates": 4,
        "average": 0.9,
        "epochs": 4,
        "patience": 3,
        "validation_sentences": 8,
        "precision": "fp32",
        "report_updates": 3,
        "export": False,
    },
}


@dataclass
class Bench:
    """What every run is made of, and where."""

    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, list[Pair]]

    def settings(self, *, every_update: bool) -> Config:
        """The configuration; every_update: the state is saved after each, and else after every epoch."""
        sets = ["training.save_minutes=1e-9"] if every_update else []
        return resolve(copy.deepcopy(SETTINGS), sets=sets)

    def child(self, name: str, *, every_update: bool, arm: Callable[[], None], settle: Callable[[int], None]) -> int:
        """Train in a process of its own, begin or go on, with `arm` called in it first; its wait status.

        settle: called in the parent with the process id while it runs.
        """
        sys.stdout.flush()
        number = os.fork()
        if number == 0:
            self._train_armed(name, every_update, arm)
        settle(number)
        return os.waitpid(number, 0)[1]

    def train(self, name: str, *, every_update: bool = False) -> None:
        """Begin a run, or go on with it."""
        run, settings = Run(self.folder / name), self.settings(every_update=every_update)
        resume = run.config_file.exists()
        train(settings, run, self.tokenizer, self.splits, device=torch.device("cpu"), resume=resume)

    def _train_armed(self, name: str, every_update: bool, arm: Callable[[], None]) -> None:
        try:
            arm()
            self.train(name, every_update=every_update)
            sys.setprofile(None)
            os._exit(0)
        except BaseException:
            sys.setprofile(None)
            traceback.print_exc()
            os._exit(1)


def die() -> None:
    """As by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def counted(count: int, only: set[str] | None) -> Callable[[], None]:
    """Die at the `count`-th step of Python, or before the `count`-th call of a function of these names."""

    def arm() -> None:
        left = count

        def step(frame: Any, event: str, argument: Any) -> None:
            nonlocal left
            if only is None or (event == "c_call" and getattr(argument, "__name__", "") in only):
                left -= 1
                if left == 0:
                    die()

        sys.setprofile(step)

    return arm


def after_bytes(count: int) -> Callable[[], None]:
    """Die by the operating system's hand when a file grows beyond `count` bytes: in the middle of a write."""

    def arm() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.RLIM_INFINITY))

    return arm


def killed_after(seconds: float) -> Callable[[int], None]:
    """Kill the process from outside, if it is still there."""

    def settle(number: int) -> None:
        time.sleep(seconds)
        os.kill(number, signal.SIGKILL)  # not yet waited for, so the number is still its own

    return settle


def nothing(*unused: object) -> None:
    """Let it run."""


# ------------------------------------------------------------------------------------------------------- comparing


def differences(left: Run, right: Run) -> list[str]:
    """What two runs that ended do not have in common, but for the clock: bytes, tensors, counters, the log."""
    found = [
        file.name
        for file in (left.model_file, left.hypotheses_file)
        if file.read_bytes() != (right.folder / file.name).read_bytes()
    ]
    for state in ("state_file", "good_file"):
        (ours, our_record), (theirs, their_record) = read(getattr(left, state)), read(getattr(right, state))
        names = sorted(ours.keys() | theirs.keys())
        found += [n for n in names if n not in ours or n not in theirs or not torch.equal(ours[n], theirs[n])]
        found += [key for key, value in our_record.items() if timeless(value) != timeless(their_record.get(key))]
    log, other = ([timeless(event) for event in run.read_metrics()] for run in (left, right))
    return found + ([] if log == other else ["metrics.jsonl"])


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a state, and its record but for the size of a log that holds times, and how often to save."""
    with safe_open(path, framework="pt") as file:
        record = json.loads((file.metadata() or {})["projtrans"])
        record.pop("metrics_bytes")
        record["settings"].pop("training.save_minutes")
        record = timeless(record)
        return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118  (not a mapping)


def timeless(value: Any) -> Any:
    """The value without what the clock says."""
    return {k: v for k, v in value.items() if k not in CLOCK} if isinstance(value, dict) else value


# --------------------------------------------------------------------------------------------------------- the kills


def manner(number: int, size: int, steps: int, calls: int, random: random.Random) -> dict[str, Any]:
    """How the next run dies; size: of a state, in bytes; steps, calls: at most so many of a run's."""
    arm: Callable[[], None] = nothing
    settle: Callable[[int], None] = nothing
    kind = ("call", "step", "call", "bytes", "step", "time")[number % 6]
    if kind == "call":
        arm = counted(random.randint(1, calls), CALLS)
    elif kind == "step":
        arm = counted(random.randint(1, steps), None)
    elif kind == "bytes":
        arm = after_bytes(random.randrange(size))
    else:
        settle = killed_after(random.uniform(0.0, 0.5))
    return {"arm": arm, "settle": settle}


def lengths(bench: Bench, name: str) -> tuple[int, int]:
    """Steps and calls of a whole run, which is made for that."""
    file = bench.folder / f"{name}.count"

    def arm() -> None:
        steps = calls = 0

        def step(frame: Any, event: str, argument: Any) -> None:
            nonlocal steps, calls
            steps += 1
            calls += event == "c_call" and getattr(argument, "__name__", "") in CALLS
            if argument is sys.setprofile and event == "c_call":  # switched off: the run is over
                file.write_text(f"{steps} {calls}", encoding="utf-8")

        sys.setprofile(step)

    raise_for(bench.child(name, every_update=True, arm=arm, settle=nothing))
    steps, calls = map(int, file.read_text(encoding="utf-8").split())
    return steps, calls


def raise_for(status: int) -> None:
    """A run that ends by itself ends well."""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a run failed instead of being killed")


def kill(bench: Bench, kills: int, seed: int) -> str:
    """Kill so many runs, each of which goes on where the last one died; ends with what was seen, or SystemExit."""
    chance = random.Random(seed)
    bench.train("warm-up")  # what is imported on the way is there in every process that is forked
    steps, calls = lengths(bench, "whole")
    whole = Run(bench.folder / "whole")
    size = whole.state_file.stat().st_size
    died = ended = 0
    while died < kills or (bench.folder / f"run-{ended}").exists():
        name, how = f"run-{ended}", {"arm": nothing, "settle": nothing}
        if died < kills:
            how = manner(died, size, steps, calls, chance)
        status = bench.child(name, every_update=ended % 2 == 0, **how)
        raise_for(status)
        if os.WIFSIGNALED(status):
            died += 1
            continue
        found = differences(whole, Run(bench.folder / name))
        if found:
            raise SystemExit(f"{name} differs after {died} kills (seed {seed}): {', '.join(found)}")
        ended += 1
    return f"{died} kills of {ended} runs without one difference"


def bench(folder: Path) -> Bench:
    """Some numbers, to be spelt backwards."""
    numbers = [f"{17 * number:04}" for number in range(300)]
    texts = [(" ".join(f"digit{d}" for d in n), " ".join(f"cifra{d}" for d in reversed(n))) for n in numbers]
    corpus, data = folder / "toy.tsv", folder / "data"
    corpus.write_text("".join(f"{source}\t{target}\n" for source, target in texts), encoding="utf-8")
    prepare(CorpusConfig(name=str(corpus), vocab_size=330), data)
    counts = {"train": 160, "valid": 8, "test": 4}
    splits = {name: list(read_split(data, name))[:count] for name, count in counts.items()}
    return Bench(folder, load_tokenizer(data), splits)


def main() -> None:
    """Kill, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no other thread
    curves.installed = lambda: False  # drawing would be half of the steps at which a run may die
    with tempfile.TemporaryDirectory() as folder:
        print(kill(bench(Path(folder)), given.kills, given.seed))


if __name__ == "__main__":
    main()
