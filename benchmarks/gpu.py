"""How fast training is on a GPU, and whether its graphs are right: `python benchmarks/gpu.py [--precision fp32] ...`.

First every way of making updates is compared with the plain one: the losses of the first updates, without dropout, have
to agree. Then both configurations of Sanger 2026 are trained in full, 10 epochs of 83,000 pairs in batches of 64 that
took the paper 129 s (projection) and 174 s (standard) on an A100; and one epoch of the default configuration. Sentences
are made up, as long and as many as Tatoeba's, so that no archive is needed; --words and --pieces name prepared folders
of the real ones. Training seconds are those of updates alone, as summary.json has them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from projtrans import config
from projtrans.data.data_folder import load_tokenizer, open_splits
from projtrans.data.encoded_corpus import Prepared
from projtrans.data.prepare import prepare
from projtrans.data.tokenizer import Tokenizer
from projtrans.model import devices
from projtrans.model.flops import multiply_adds
from projtrans.runs import settings
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.events import Event, Recorded
from projtrans.training.trainer import Trainer

PAPER = {"sanger2026-projection": 129.0, "sanger2026-standard": 174.0}
"""Seconds of training that the paper reports, on an A100."""

GOAL = 12.0
"""Seconds that either should take."""

PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "4090": 165}
"""Dense bfloat16 TFLOP/s from the makers' data sheets, by a part of the device's name; the first that fits."""

COMPARED = 20
"""Updates whose losses have to agree."""

TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
"""How far apart they may be, relatively: padding and other kernels round otherwise, and training carries it on."""

TINY = ["model.width=16", "model.heads=2", "model.feedforward=32", "corpus.vocab_size=330"]


@dataclass(frozen=True)
class Data:
    """A prepared corpus."""

    tokenizer: Tokenizer
    splits: dict[str, Prepared]


@dataclass(frozen=True)
class Bench:
    """Where runs lie, on what they are made, and how."""

    folder: Path
    device: torch.device
    precision: str
    sets: Sequence[str]

    def settings(self, name: str, *sets: str) -> Config:
        """A shipped configuration with what was asked for."""
        raw = config.read_yaml(config.find(name))
        common = [f"training.precision={self.precision}", "training.evaluate_test=false", "training.patience=null"]
        return settings.resolve(raw, sets=[*common, *self.sets, *sets])

    def trainer(self, chosen: Config, data: Data, seen: list[Event]) -> Trainer:
        """A training that begins."""
        run = Run(Path(tempfile.mkdtemp(dir=self.folder)) / "run")
        run.create(config.dump(chosen), data.tokenizer)
        splits = data.splits
        made = Trainer(
            chosen, run, data.tokenizer, splits["train"], splits["valid"][:64], self.device, report=seen.append
        )
        made.initialise()
        return made


def sentences(count: int, words: int, seed: int) -> list[str]:
    """Made-up sentences: lengths as in Tatoeba, log-normal around 6 words, and words by Zipf's law."""
    random = np.random.default_rng(seed)
    chances = 1 / (np.arange(words) + 2.7)
    lengths = random.lognormal(np.log(6.0), 0.45, count).astype(int).clip(1, 40)
    drawn = random.choice(words, lengths.sum(), p=chances / chances.sum())
    letters = [chr(ord("a") + i) for i in range(26)]
    spelt = ["".join(letters[number // 26**place % 26] for place in range(4)) for number in range(words)]
    return [" ".join(spelt[number] for number in row) for row in np.split(drawn, lengths.cumsum()[:-1])]


def made_up(chosen: Config, folder: Path, pairs: int) -> Data:
    """A corpus of so many training pairs, prepared as the configuration wants it."""
    words = 20_000 if pairs > 10_000 else 200
    files = {}
    for split, count in (("train", pairs), ("valid", 64), ("test", 64)):
        files[split] = (folder / f"{split}.a", folder / f"{split}.b")
        for seed, path in enumerate(files[split], start=len(files) * 2):
            path.write_text("\n".join(sentences(count, words, seed)) + "\n", encoding="utf-8")
    prepare(chosen.corpus, folder / "data", files=files)
    return opened(folder / "data")


def opened(folder: Path) -> Data:
    """A prepared folder."""
    tokenizer = load_tokenizer(folder)
    return Data(tokenizer, open_splits(folder, tokenizer, lambda event: None))


def first_losses(bench: Bench, name: str, mode: str, data: Data) -> list[tuple[float, float]]:
    """Target tokens and loss, in nats per token, of each of the first updates, without dropout."""
    plain = ["model.dropout=0.0", "model.output_dropout=0.0", f"training.compile={mode}"]
    trainer = bench.trainer(bench.settings(name, *plain), data, [])
    batches, size, found = trainer.begin_epoch(), trainer.plan.together, []
    for first in range(0, min(COMPARED * size, len(batches)), size):
        trainer.advance(first, min(first + size, len(batches)))
        sums = trainer.state.recent.take()
        found.append((sums.tokens, sums.loss))
    return found


def compare(bench: Bench, name: str, modes: Sequence[str], data: Data) -> list[str]:
    """Compare every way with the plain one; returns the findings in words. Raises SystemExit where one is wrong."""
    losses = {mode: first_losses(bench, name, mode, data) for mode in modes}
    plain, limit, found = losses[modes[0]], TOLERANCE[bench.precision], []
    for mode in modes[1:]:
        apart = max(abs(ours - theirs) / theirs for (_, ours), (_, theirs) in zip(losses[mode], plain, strict=True))
        text = f"{name}, {mode}: losses of {len(plain)} updates within {apart:.1e} of `{modes[0]}`"
        if [tokens for tokens, _ in losses[mode]] != [tokens for tokens, _ in plain]:
            raise SystemExit(f"{name}, {mode}: other batches than `{modes[0]}`, so it is wrong")
        if not apart <= limit:
            raise SystemExit(f"{text}: more than {limit:g}, so it is wrong")
        found.append(text)
    return found


def flops(chosen: Config, data: Data, trainer: Trainer) -> float:
    """Floating-point operations of an epoch, forward and backward: 6 for each multiply-add of a forward pass.

    Padding counts where it is learned, as in the paper, and not otherwise.
    """
    lengths_N2 = trainer.plan.examples.lengths
    if not chosen.model.mask_padding:
        lengths_N2 = np.full_like(lengths_N2, chosen.corpus.max_length)
    found, counts = np.unique(lengths_N2, axis=0, return_counts=True)
    size = data.tokenizer.target_size
    return 6.0 * sum(
        int(count) * multiply_adds(chosen.model, size, source=int(source), target=int(target)).total
        for (source, target), count in zip(found, counts, strict=True)
    )


def measure(bench: Bench, name: str, mode: str, data: Data, epochs: int | None, peak: float | None) -> str:
    """Train by the loop of `projtrans train`; a line of the table."""
    more = [] if epochs is None else [f"training.epochs={epochs}"]
    chosen = bench.settings(name, f"training.compile={mode}", *more)
    seen: list[Event] = []
    trainer = bench.trainer(chosen, data, seen)
    trainer.probe()
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    trainer.train()
    counters = trainer.state.counters
    seconds, recorded = counters.training_seconds, [event for event in seen if isinstance(event, Recorded)]
    epochs_done = counters.update / trainer.plan.per_epoch
    tokens = epochs_done * int(trainer.plan.examples.lengths[:, 1].sum())
    speed = flops(chosen, data, trainer) * epochs_done / seconds
    memory = torch.cuda.max_memory_allocated(bench.device) / 2**20 if bench.device.type == "cuda" else 0
    share = f"{speed / (peak * 1e12):.1%}" if peak else "–"
    paper = PAPER.get(name) if epochs is None else None
    cells = [
        name,
        mode,
        f"{counters.update:,}",
        f"{seconds:.1f}",
        f"{1000 * seconds / counters.update:.3f}",
        "; ".join(f"{event.seconds:.1f} ({event.shapes}, {event.padding:.1%})" for event in recorded) or "–",
        f"{tokens / seconds:,.0f}",
        f"{speed / 1e12:.2f}",
        share,
        f"{memory:,.0f}",
        f"{paper:.0f} s: {paper / seconds:.1f} ×, {'within' if seconds <= GOAL else 'over'} {GOAL:.0f} s"
        if paper
        else "–",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = [
    "configuration",
    "updates by",
    "updates",
    "training, s",
    "ms per update",
    "ready in, s (shapes, padding to them)",
    "target tokens/s",
    "TFLOP/s",
    "of the bfloat16 peak",
    "memory, MiB",
    "the paper's",
]


def peak_of(device: torch.device) -> float | None:
    """Dense bfloat16 TFLOP/s of a known device."""
    name = devices.describe(device)
    return next((float(peak) for part, peak in PEAKS.items() if part in name), None)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--configs", default="sanger2026-projection,sanger2026-standard,tatoeba")
    parser.add_argument("--modes", help="of none,static,graph; the others are compared with the first")
    parser.add_argument("--precision", default="bf16", choices=list(TOLERANCE))
    parser.add_argument("--epochs", type=int, help="fewer for a first look")
    parser.add_argument("--pairs", type=int, default=83_276, help="made-up training pairs")
    parser.add_argument("--words", type=Path, metavar="DIR", help="prepared for --config sanger2026-standard")
    parser.add_argument("--pieces", type=Path, metavar="DIR", help="prepared for --config tatoeba")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="dense bfloat16 peak of a device not known here")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--tiny", action="store_true", help="a model and a corpus of nothing, to try this program")
    given = parser.parse_args()
    default = "none,static,graph" if given.device.startswith("cuda") else "none,static"
    given.modes = (given.modes or default).split(",")
    if given.tiny:
        given.set, given.pairs, given.epochs = [*TINY, *given.set], 150, 1
    return given


def main() -> None:
    """Compare, then measure; prints as it goes."""
    given = options()
    device = devices.choose(given.device)
    peak = given.peak or peak_of(device)
    print(f"{devices.describe(device)}, torch {torch.__version__}, {given.precision}, seeds as configured\n")
    with tempfile.TemporaryDirectory() as folder:
        bench, data = Bench(Path(folder), device, given.precision, given.set), {}
        for name in given.configs.split(","):
            real = given.words if name in PAPER else given.pieces
            kind = bench.settings(name).corpus.tokenizer
            if kind not in data:
                place = Path(tempfile.mkdtemp(dir=folder))
                data[kind] = opened(real) if real else made_up(bench.settings(name), place, given.pairs)
            for text in compare(bench, name, given.modes, data[kind]):
                print(text, flush=True)
        print(f"\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
        for name in given.configs.split(","):
            epochs = given.epochs if name in PAPER or given.epochs else 1
            for mode in given.modes:
                chosen = data[bench.settings(name).corpus.tokenizer]
                print(measure(bench, name, mode, chosen, epochs, peak), flush=True)


if __name__ == "__main__":
    main()
