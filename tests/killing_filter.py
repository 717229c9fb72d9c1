"""Kills a translation of a file over and over, and compares its result with that of an undisturbed one.

    python -m tests.killing_filter RUN INPUT [--kills N] [--seed N]

As killing.py does with training: each time a new process, forked after the imports, that dies before a system call,
between two steps of Python, in the middle of a write, or at a moment that its parent chooses.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from projtrans.cli import filter as filtering
from projtrans.cli.main import app
from tests import killing

WINDOW = 16
VARIANTS = [["--format", "text"], ["--format", "tsv", "--n-best", "3"], ["--format", "json", "--on-error", "copy"]]


def child(arguments: list[str], arm: Callable[[], None], settle: Callable[[int], None]) -> int:
    """Translate in a child process that calls `arm` first; returns its wait status."""
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        filtering.WINDOW = WINDOW
        arm()
        status = 99
        try:
            app(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.setprofile(None)
            os._exit(status)
    settle(number)
    return os.waitpid(number, 0)[1]


def lengths(arguments: list[str], file: Path) -> tuple[int, int]:
    """The number of Python steps, and of calls that change files, in a whole translation."""

    def arm() -> None:
        steps = calls = 0

        def step(frame: Any, event: str, argument: Any) -> None:
            nonlocal steps, calls
            steps += 1
            calls += event == "c_call" and getattr(argument, "__name__", "") in killing.CALLS
            if argument is sys.setprofile and event == "c_call":
                file.write_text(f"{steps} {calls}", encoding="utf-8")

        sys.setprofile(step)

    if child(arguments, arm, killing.nothing):
        raise SystemExit("a translation failed")
    steps, calls = map(int, file.read_text(encoding="utf-8").split())
    return steps, calls


def kill(folder: Path, run: str, source: str, kills: int, seed: int) -> str:
    """Kill so many translations, each of which resumes where the last one died; returns what was seen."""
    chance, died, resumed = random.Random(seed), 0, 0
    for number, variant in enumerate(VARIANTS):
        whole, out = folder / f"whole-{number}", folder / f"out-{number}"
        begin = ["translate", "--model", run, "--engine", "torch", "--input", source, "--quiet", *variant, "--output"]
        steps, calls = lengths([*begin, str(whole)], folder / "count")
        most = died + -(-kills // len(VARIANTS))
        while died < most or not out.exists():
            out.unlink(missing_ok=True)
            record = folder / f"{out.name}.unfinished.json"
            resumed += record.exists() and json.loads(record.read_text(encoding="utf-8"))["done"]["lines"] > 0
            how = {"arm": killing.nothing, "settle": killing.nothing}
            if died < most:
                how = killing.manner(died, whole.stat().st_size, steps, calls, chance)
            status = child([*begin, str(out), "--resume"], **how)
            if os.WIFSIGNALED(status):
                died += 1
            elif os.WEXITSTATUS(status):
                raise SystemExit(f"a translation failed with exit status {os.WEXITSTATUS(status)}")
            elif out.read_bytes() != whole.read_bytes():
                raise SystemExit(f"{variant}: another output after {died} kills (seed {seed})")
        left = [path.name for path in folder.iterdir() if path.name.startswith((out.name + ".", "."))]
        if left:
            raise SystemExit(f"left behind: {left}")
    if not resumed:
        raise SystemExit("no translation was resumed")
    return f"{died} kills, {resumed} resumed, without one difference"


def main() -> None:
    """Kill, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("input")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no other thread
    with tempfile.TemporaryDirectory() as folder:
        print(kill(Path(folder), given.run, given.input, given.kills, given.seed))


if __name__ == "__main__":
    main()
