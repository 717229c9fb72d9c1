"""What the tests share: a toy language, small models that the real commands train on it, ways to run the command.

The toy language spells the digits of a number and is translated word by word, from back to front. Some numbers have two
right translations. Nobody needs to learn it well here: the models are to be small, different from chance, and quick.
"""

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

from projtrans.cli.main import app


def pytest_configure() -> None:
    """No deadlines; a processor a worker; Ctrl-C heard, which a shell's background job, and all it starts, ignores."""
    unhurried = [HealthCheck.too_slow]  # no test depends on time
    settings.register_profile("projtrans", deadline=None, suppress_health_check=unhurried)
    settings.load_profile("projtrans")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
"""The configuration of the toy models; the validation sample is the whole split."""


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


# ------------------------------------------------------------------------------------------------------ the command


@dataclass(frozen=True)
class Result:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output, split where a shell splits them."""
        return self.out.split("\n")[:-1]

    @property
    def errors(self) -> list[str]:
        """The lines of standard error that tell of an error."""
        return [line for line in self.err.split("\n") if line.startswith("error:")]


def cli(*arguments: object, stdin: str | bytes = "") -> Result:
    """Run the command in this process; an exception that would be a traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback instead of a line: {result.exception!r}") from result.exception
    return Result(result.exit_code, result.stdout_bytes.decode("utf-8"), result.stderr)


def done(*arguments: object, stdin: str | bytes = "") -> Result:
    """Run the command in this process; it must succeed."""
    result = cli(*arguments, stdin=stdin)
    assert result.status == 0, result.err
    return result


def command(*arguments: object) -> list[str]:
    """The command line of `python -m projtrans`."""
    return [sys.executable, "-m", "projtrans", *map(str, arguments)]


def run(*arguments: object, folder: Path, stdin: bytes = b"", **options: Any) -> Result:
    """Run the command as a process of its own."""
    finished = subprocess.run(
        command(*arguments), input=stdin, cwd=folder, capture_output=True, timeout=300, check=False, **options
    )
    return Result(finished.returncode, finished.stdout.decode("utf-8"), finished.stderr.decode("utf-8"))


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: the checksum of a file, the target of a link, the mark of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing more fails as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---------------------------------------------------------------------------------------------------------- oracles


@dataclass(frozen=True)
class ByHand:
    """Teacher-forced figures, over the pieces and over the padding too."""

    loss: float
    accuracy: float
    loss_with_padding: float
    accuracy_with_padding: float


def forced_by_hand(model: Any, tokenizer: Any, pairs: Iterable[Any], longest: int, *, padded: bool) -> ByHand:
    """The figures, one sentence and one position at a time; padded: up to `longest`, where the model attends to it."""
    rows: list[tuple[bool, float, bool]] = []  # a real piece, its negative log-likelihood, predicted
    for text, reference in pairs:
        (source,), (target,) = tokenizer.encode_source([text]), tokenizer.encode_target([reference])
        source, target = source[:longest], [*target, tokenizer.eos_id][:longest]
        if padded:
            source, target = (side + [tokenizer.pad_id] * (longest - len(side)) for side in (source, target))
        before = torch.tensor([[tokenizer.bos_id, *target[:-1]]])
        with torch.no_grad():
            logits = model.output(model.decode(before, model.encode(torch.tensor([source]), None)))[0].double()
        logprob = logits - logits.logsumexp(-1, keepdim=True)
        for position, piece in enumerate(target):
            nll, best = -logprob[position, piece].item(), int(logprob[position].argmax())
            rows.append((piece != tokenizer.pad_id, nll, best == piece))
    real = [row for row in rows if row[0]]
    return ByHand(
        loss=statistics.fmean(nll for _, nll, _ in real),
        accuracy=statistics.fmean(right for _, _, right in real),
        loss_with_padding=statistics.fmean(nll for _, nll, _ in rows),
        accuracy_with_padding=statistics.fmean(right for _, _, right in rows),
    )


# --------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's machine reaches a test, and no test writes into the developer's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PROJTRANS_", "XDG_"))]:
            patch.delenv(name)
        patch.delenv("NO_COLOR", raising=False)
        patch.delenv("FORCE_COLOR", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


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


@pytest.fixture(scope="session")
def toy(_alone: None, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy corpus, prepared, and a model of each kind, trained: all by the command. Not to be changed by tests."""
    folder = tmp_path_factory.mktemp("toy")
    lines = [f"{source}\t{target}\n" for source, target in toy_pairs()]
    (folder / "toy.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with contextlib.chdir(folder):
        done("prepare", "toy.tsv", "--vocab-size", 400)
        for kind in KINDS:
            done("train", "--config", "tiny.yaml", "--attention", kind, "--threads", 1)
    return Toy(folder)


@pytest.fixture
def workshop(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy's folder to work in, as current folder."""
    folder = tmp_path / "workshop"
    shutil.copytree(toy.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder
