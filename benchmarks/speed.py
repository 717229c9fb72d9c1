"""Projection against standard attention, in time and memory: `python benchmarks/speed.py [--device cuda] ...`.

Every column is a ratio to standard attention, of the median over rounds in which all kinds take one turn each, so that
whatever else the machine does meets them all. Memory is the peak of one update beyond the model and its optimiser.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from projtrans.cli.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from projtrans.model import devices  # noqa: E402
from projtrans.model.loss import cross_entropy  # noqa: E402
from projtrans.model.multihead import build_attention, constrain  # noqa: E402
from projtrans.model.transformer import Transformer  # noqa: E402
from projtrans.runs import settings  # noqa: E402
from projtrans.training.optimizer import build_optimizer, clip  # noqa: E402

KINDS = {
    "standard": ["kind=standard"],
    "projection": ["kind=projection"],
    "projection, K = V": ["kind=projection", "values=keys"],
    "σ of the paper": ["kind=projection", "learn_sigma=none", "sigma={self: 0.01, cross: 0.05}"],
}
VOCABULARY = 8000


def configured(kind: str) -> settings.Config:
    """The default configuration with one of the attentions."""
    return settings.resolve({}, sets=[f"model.attention.{one}" for one in KINDS[kind]])


class Step:
    """One update of the default model on random ids: `sentences` with `length` source and target tokens."""

    def __init__(self, kind: str, length: int, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.config, self.precision, self.device = configured(kind), given.precision, torch.device(given.device)
        model = Transformer(
            self.config.model, source_size=VOCABULARY, target_size=VOCABULARY, max_length=length, joint=True
        )
        self.model = model.to(self.device).train()
        self.call: Callable[..., Tensor] = torch.compile(model) if given.compile else model
        self.optimizer = build_optimizer(model, self.config.training)
        sentences = max(1, given.tokens // length)
        ids = torch.randint(4, VOCABULARY, (3, sentences, length), device=self.device)
        self.source, self.target_in, self.target_out = ids
        self.mask = torch.ones(sentences, length, dtype=torch.bool, device=self.device)
        self.mask[: sentences // 2, -1:] = False  # a batch of one length has next to no padding, but it has a mask

    def __call__(self) -> None:
        """Forward, backward, clipping, optimiser."""
        with devices.autocast(self.device, self.precision):
            h = self.call(self.source, self.mask, self.target_in)
            half = torch.is_autocast_enabled(self.device.type)
        h = (h.bfloat16() if half else h).flatten(0, 1)
        output = self.model.output
        loss = cross_entropy(h, output.weight, output.bias, self.target_out.flatten(), 0.1)
        (loss.smoothed / len(h)).backward()
        clip(self.model.parameters(), 1.0)
        self.optimizer.step()
        constrain(self.model)
        self.optimizer.zero_grad()


class Module:
    """One self-attention module, forward and backward, on the same tokens."""

    def __init__(self, kind: str, length: int, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        model, self.precision, self.device = configured(kind).model, given.precision, torch.device(given.device)
        sizes = {"width": model.width, "heads": model.heads, "head_width": model.width // model.heads}
        self.attention = build_attention(model.attention, "encoder", **sizes, dropout=0.0)
        self.attention.reset_parameters()
        self.attention.to(self.device)
        self.x = torch.randn(max(1, given.tokens // length), length, model.width, device=self.device)
        self.x.requires_grad_()
        self.call = torch.compile(self.attend) if given.compile else self.attend

    def attend(self, x: Tensor) -> Tensor:
        """Projections, attention, W_o."""
        return self.attention(*self.attention.project(x))

    def __call__(self) -> None:
        """Forward and backward."""
        with devices.autocast(self.device, self.precision):
            y = self.call(self.x.bfloat16() if torch.is_autocast_enabled(self.device.type) else self.x)
        y.backward(y.detach())


def times(steps: dict[str, Step] | dict[str, Module], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of every kind in every round."""
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 2):
        for kind, step in steps.items():
            _wait(device)
            begin = time.perf_counter()
            step()
            _wait(device)
            if number >= 2:
                taken[kind].append(time.perf_counter() - begin)
    return taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(taken: dict[str, list[float]], kind: str) -> float:
    """Median over the rounds of the time of a kind over that of standard attention in the same round."""
    return statistics.median(a / b for a, b in zip(taken[kind], taken["standard"], strict=True))


def memory(kind: str, length: int, given: argparse.Namespace) -> float:
    """Peak bytes of one update beyond what stays; on a CPU, where what is resident counts, in a process of its own."""
    if given.device != "cpu":
        step = Step(kind, length, given)
        step()
        torch.cuda.reset_peak_memory_stats(given.device)
        before = torch.cuda.memory_allocated(given.device)
        step()
        return torch.cuda.max_memory_allocated(given.device) - before
    chosen = [f"--{name}={getattr(given, name)}" for name in ("device", "precision", "tokens", "threads")]
    chosen += ["--compile"] if given.compile else []
    command = [sys.executable, __file__, *chosen, f"--memory-of={kind}", f"--lengths={length}"]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def resident(kind: str, length: int, given: argparse.Namespace) -> int:
    """Bytes by which one update of a fresh process raises what is resident at most."""
    small = argparse.Namespace(**{**vars(given), "tokens": 8})
    Step(kind, 8, small)()  # libraries and their buffers
    step = Step(kind, length, given)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def row(length: int, given: argparse.Namespace) -> str:
    """One line of the table."""
    device = torch.device(given.device)
    steps = times({kind: Step(kind, length, given) for kind in KINDS}, device, given.rounds)
    modules = times({kind: Module(kind, length, given) for kind in KINDS}, device, given.rounds)
    cells = [f"{length}", f"{1000 * statistics.median(steps['standard']):.0f}"]
    cells += [f"{ratio(steps, kind):.3f}" for kind in KINDS if kind != "standard"]
    cells += [f"{1000 * statistics.median(modules['standard']):.1f}"]
    cells += [f"{ratio(modules, kind):.3f}" for kind in KINDS if kind != "standard"]
    if given.memory:
        standard = memory("standard", length, given)
        cells += [f"{standard / 2**20:.0f}"]
        cells += [f"{memory(kind, length, given) / standard:.3f}" for kind in KINDS if kind != "standard"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="10,64,512,4096", help="tokens per sentence")
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens per batch")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--memory-of", choices=list(KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(resident(given.memory_of, int(given.lengths), given))
        return
    print(f"{devices.describe(torch.device(given.device))}, torch {torch.__version__}, precision {given.precision}\n")
    parts = ["step", "module", *(["memory"] if given.memory else [])]
    units = {"step": "ms", "module": "ms", "memory": "MB"}
    others = [kind for kind in KINDS if kind != "standard"]
    print("| length | " + " | ".join(" | ".join([f"{p}, standard, {units[p]}", *others]) for p in parts) + " |")
    print("|" + "---|" * (1 + len(parts) * len(KINDS)))
    for length in given.lengths.split(","):
        print(row(int(length), given), flush=True)


if __name__ == "__main__":
    main()
