"""Training learns: ten pairs by heart, and to reverse digits through the commands."""

import itertools
import random
from pathlib import Path

import pytest

from projtrans.inference.torch_translator import Translator
from tests.commands import done
from tests.toy import KINDS
from tests.training.bench import CPU, EXACT, Bench, events_of, settings_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_ten_pairs_are_learnt_by_heart(bench: Bench, kind: str) -> None:
    ten = list({pair.source: pair for pair in bench.splits["train"]}.values())[:10]
    bench.splits = {"train": ten * 20, "valid": ten, "test": ten}
    sets = [*EXACT, f"model.attention.kind={kind}", "training.label_smoothing=0.0", "training.epochs=25"]
    sets += ["training.by_length=false", "training.batch_sentences=20"]
    run = bench.train(settings_of(*sets))
    last = events_of(run)[-1]
    assert last["event"] == "valid"
    assert last["loss"] < 0.01
    assert last["accuracy"] == 1.0
    assert last["bleu"] == pytest.approx(100.0)
    translator = Translator.of_run(run, CPU)
    assert [translator(pair.source) for pair in ten] == [pair.target for pair in ten]


@pytest.mark.parametrize("kind", KINDS)
def test_reversing_digits_is_learnt_through_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Held-out numbers come out back to front: word order and words, from encoder to output."""
    monkeypatch.chdir(tmp_path)
    numbers = ["".join(digits) for length in (2, 3, 4) for digits in itertools.product("012345", repeat=length)]
    random.Random(3).shuffle(numbers)
    parts = {"train": numbers[:1250], "valid": numbers[1250:1340], "test": numbers[1340:1540]}
    for name, part in parts.items():
        Path(f"{name}.src").write_text("".join(f"{' '.join(number)}\n" for number in part), encoding="utf-8")
        Path(f"{name}.tgt").write_text("".join(f"{' '.join(number[::-1])}\n" for number in part), encoding="utf-8")
    files = [item for name in parts for item in (f"--{name}", f"{name}.src", f"{name}.tgt")]
    done("prepare", *files, "-o", "data", "--vocab-size", 301, "--quiet")
    sets = [
        "model.layers.encoder=1", "model.layers.decoder=1", "model.width=96", "model.heads=2", "model.feedforward=128",
        "model.dropout=0.0", "training.batch_tokens=384", "training.learning_rate=0.003", "training.warmup_updates=50",
        "training.epochs=40", "training.average=null", "training.patience=null", "training.validation_sentences=1",
        "training.evaluate_test=false", "training.precision=fp32",
    ]  # fmt: skip
    sets = [item for assignment in sets for item in ("--set", assignment)]
    done("train", "--data", "data", "--attention", kind, "--run", "run", "--threads", 1, "--quiet", *sets)
    sources = Path("test.src").read_text(encoding="utf-8")
    found = done("translate", "--model", "run", "--beam-size", 1, "--threads", 1, stdin=sources).lines
    wanted = [" ".join(number[::-1]) for number in parts["test"]]
    right = sum(ours == theirs for ours, theirs in zip(found, wanted, strict=True))
    assert right / len(wanted) >= 0.98
