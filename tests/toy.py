"""The toy language and the small models that the real commands train on it.

The toy language spells the digits of a number and is translated word by word, from back to front. Some numbers have two
correct translations. The models need not learn it well: they are to be small, better than chance, and quick to train.
"""

import contextlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.commands import done

KINDS = ("standard", "projection")
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ["ba", "be", "bi", "bo", "bu", "da", "de", "di", "do", "du"]

TINY: dict[str, Any] = {
    "corpus": {"name": "toy.tsv", "vocab_size": 400},
    "model": {"layers": {"encoder": 1, "decoder": 1}, "width": 32, "heads": 2, "feedforward": 64},
    "training": {
        "batch_tokens": 160,
        "learning_rate": 0.01,
        "warmup_updates": 10,
        "average": 0.9,
        "epochs": 8,
        "patience": None,
        "validation_sentences": 1000,
        "precision": "fp32",
        "export": False,
    },
}
"""The configuration of the toy models; they are validated on the whole split."""


def spell(number: str) -> str:
    """The source sentence of a number: '314' is 'three one four'."""
    return " ".join(DIGITS[int(digit)] for digit in number)


def turn(number: str) -> str:
    """Its translation: '314' is 'bu be bo'."""
    return " ".join(WORDS[int(digit)] for digit in reversed(number))


def numbers(count: int, seed: int = 0, longest: int = 5) -> list[str]:
    """Distinct random numbers of two digits and more."""
    generator, found = random.Random(seed), {}
    while len(found) < count:
        found["".join(generator.choices("0123456789", k=generator.randint(2, longest)))] = None
    return list(found)


def toy_pairs() -> list[tuple[str, str]]:
    """About 300 pairs; a number that begins with 0, 1 or 2 has a second translation."""
    pairs = [(spell(number), turn(number)) for number in numbers(240)]
    return pairs + [(spell(number), f"{turn(number)} e") for number in numbers(240) if number[0] in "012"]


@dataclass(frozen=True)
class Toy:
    """A folder as a user would have it: corpus, configuration, prepared data, a run of each kind of attention."""

    folder: Path

    @property
    def data(self) -> Path:
        """The prepared corpus."""
        return self.folder / "data" / "toy"

    def run(self, kind: str) -> Path:
        """The run folder of a kind of attention."""
        return self.folder / "runs" / f"tiny-{kind}"


def make_toy(folder: Path) -> None:
    """Write the toy corpus into a folder, prepare it and train a model of each kind there: all by the command."""
    lines = [f"{source}\t{target}\n" for source, target in toy_pairs()]
    (folder / "toy.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with contextlib.chdir(folder):
        done("prepare", "toy.tsv", "--vocab-size", 400)
        for kind in KINDS:
            done("train", "--config", "tiny.yaml", "--attention", kind, "--threads", 1)
