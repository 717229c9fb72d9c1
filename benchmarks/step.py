"""Where a training step goes: `python benchmarks/step.py DATA [--config NAME] [--attention KIND] [--set ...] ...`.

Beside it the floor: the very matrix products of the same updates, forward and backward, in a bare loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from projtrans.cli.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from projtrans import config  # noqa: E402
from projtrans.data.data_folder import load_tokenizer, read_split  # noqa: E402
from projtrans.model.batching import Batch  # noqa: E402
from projtrans.runs import settings  # noqa: E402
from projtrans.runs.run_folder import Run  # noqa: E402
from projtrans.training.optimizer import clip  # noqa: E402
from projtrans.training.optimizer import step as optimize  # noqa: E402
from projtrans.training.trainer import Trainer  # noqa: E402

WARM, TIMED, ROUNDS = 30, 20, 3
"""Updates before the clock starts, which still take memory from the system; updates of a round; rounds."""

OPERATIONS = 16
"""Lines of the profile."""


class Clock:
    """Seconds by name, from one reading to the next."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self.now, self.last = now, now()

    def read(self, name: str) -> None:
        """Everything since the last reading was `name`."""
        now = self.now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now

    @property
    def together(self) -> float:
        """All of them."""
        return sum(self.seconds.values())


aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.mm.out, aten.bmm.out}


class Products(TorchDispatchMode):
    """Notes every matrix product: which operation, on tensors of which shapes, strides and types."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS:
            named = {name: _form(value) for name, value in (kwargs or {}).items()}
            self.made.append((function, tuple(map(_form, args)), named))
        return function(*args, **(kwargs or {}))

    def operations(self) -> int:
        """Floating-point operations of all products."""
        factors = [[x for x in arguments if isinstance(x, tuple)][-2:] for _, arguments, _ in self.made]
        return sum(2 * torch.Size(a[0]).numel() * b[0][-1] for a, b in factors)

    def seconds(self, now: Callable[[], float]) -> float:
        """The time that all of them take in a bare loop, on random numbers that lie in memory beforehand."""
        forms = {x for _, arguments, named in self.made for x in (*arguments, *named.values()) if isinstance(x, tuple)}
        tensors = {form: torch.empty_strided(form[0], form[1], dtype=form[2]).normal_() for form in forms}
        calls = [
            (function, [tensors.get(x, x) for x in arguments], {name: tensors.get(x, x) for name, x in named.items()})
            for function, arguments, named in self.made
        ]
        begun = now()
        for function, arguments, named in calls:
            function(*arguments, **named)
        return now() - begun


def _form(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value


def step(trainer: Trainer, batch: Batch, clock: Clock) -> None:
    """One update of the trainer, its parts timed."""
    clock.last = clock.now()
    state, objective = trainer.state, trainer.objective
    hidden = objective.passes(batch)
    clock.read("forward")
    (loss,) = objective.losses(batch, *hidden)
    clock.read("output layer, loss and its gradient")
    (loss.smoothed / batch.counted_BT.sum()).backward()
    clock.read("backward")
    clip(state.model.parameters(), trainer.training.clip_norm)
    optimize(state.optimizer, torch.zeros((), device=state.device))
    if state.average:
        state.average.update(state.model)
    state.optimizer.zero_grad()
    clock.read("clipping, optimiser, moving average")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", default="tatoeba")
    parser.add_argument("--attention")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[torch.get_num_threads()], help="in turns, if several"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--processor-time", action="store_true", help="of all threads, whatever else the machine does")
    parser.add_argument("--profile", action="store_true", help="the operations that take the most time, too")
    return parser.parse_args()


def build(given: argparse.Namespace) -> Trainer:
    """A trainer that writes nothing."""
    raw = config.read_yaml(config.find(given.config))
    chosen = settings.resolve(raw, attention=given.attention, sets=given.set)
    tokenizer, train = load_tokenizer(given.data), read_split(given.data, "train")
    trainer = Trainer(chosen, Run(Path()), tokenizer, train, [], torch.device("cpu"))
    trainer.state.model.train()
    return trainer


def show(trainer: Trainer, batches: list[Batch], rounds: list[Clock]) -> None:
    """Print the parts of an update, medians over the rounds, and beside them the floor."""
    for name in rounds[0].seconds:
        print(f"{name:40}{_milliseconds(clock.seconds[name] for clock in rounds):8.1f} ms an update")
    with Products() as products:
        for batch in batches:
            step(trainer, batch, Clock(rounds[0].now))
    bare = min(products.seconds(rounds[0].now) for _ in range(3))
    together = statistics.median(clock.together for clock in rounds)
    tokens = sum(int(batch.counted_BT.sum()) for batch in batches)
    print(f"{'together':40}{1000 * together / TIMED:8.1f} ms, {tokens / together:,.0f} target tokens/s")
    share, speed = 100 * bare / together, products.operations() / bare / 1e9
    print(f"{'its matrix products, bare':40}{1000 * bare / TIMED:8.1f} ms, {share:.0f} %, {speed:,.0f} GFLOP/s")


def _milliseconds(seconds: Iterable[float]) -> float:
    return 1000 * statistics.median(seconds) / TIMED


def show_profile(trainer: Trainer, batches: list[Batch]) -> None:
    """Print the operations that take the most time themselves, of all that torch's profiler sees."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for batch in batches:
            step(trainer, batch, Clock(time.perf_counter))
    found = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    for event in found[:OPERATIONS]:
        own, calls = event.self_cpu_time_total, event.count / len(batches)
        print(f"{event.key:40}{own / 1000 / TIMED:8.1f} ms an update, {100 * own / total:4.1f} %, {calls:5.0f} calls")


def main() -> None:
    """Time the parts and print them."""
    given = parse()
    now = time.process_time if given.processor_time else time.perf_counter
    trainer = build(given)
    batches = [trainer.plan.batch(0, indices) for indices in trainer.plan.batches(0)[: WARM + TIMED]]
    for batch in batches[:WARM]:
        step(trainer, batch, Clock(now))
    timed = batches[WARM:]
    rounds: dict[int, list[Clock]] = {threads: [] for threads in given.threads}
    for _ in range(ROUNDS):
        for threads, clocks in rounds.items():
            torch.set_num_threads(threads)
            clocks.append(Clock(now))
            for batch in timed:
                step(trainer, batch, clocks[-1])
    for threads, clocks in rounds.items():
        torch.set_num_threads(threads)
        print(f"-- {threads} thread{'s' * (threads > 1)}")
        show(trainer, timed, clocks)
        if given.profile:
            show_profile(trainer, timed)
    first, *others = rounds
    for threads in others:
        ratios = [a.together / b.together for a, b in zip(rounds[first], rounds[threads], strict=True)]
        by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{threads} threads: {statistics.median(ratios):.2f} times as fast as {first} (by round: {by_round})")


if __name__ == "__main__":
    main()
