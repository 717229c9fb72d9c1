"""Where a training step goes: `python docs/step.py DATA [--config NAME] [--attention KIND] [--set ...] ...`.

Beside it the floor: the very matrix products of the same updates, forward and backward, in a bare loop.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from projtrans.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from projtrans import config, settings  # noqa: E402
from projtrans.batching import Batch  # noqa: E402
from projtrans.optimizer import clip  # noqa: E402
from projtrans.optimizer import step as optimize  # noqa: E402
from projtrans.prepare import load_tokenizer, read_split  # noqa: E402
from projtrans.run import Run  # noqa: E402
from projtrans.trainer import Trainer  # noqa: E402

WARM, TIMED = 5, 20


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
    hidden = trainer.passes(batch)
    clock.read("forward")
    (loss,) = trainer.losses(batch, *hidden)
    clock.read("output layer, loss and its gradient")
    (loss.smoothed / batch.counted_BT.sum()).backward()
    clock.read("backward")
    clip(trainer.model.parameters(), trainer.training.clip_norm)
    optimize(trainer.optimizer, torch.zeros((), device=trainer.device))
    if trainer.average:
        trainer.average.update(trainer.model)
    trainer.optimizer.zero_grad()
    clock.read("clipping, optimiser, moving average")


def main() -> None:
    """Time the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", default="tatoeba")
    parser.add_argument("--attention")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--processor-time", action="store_true", help="of all threads, whatever else the machine does")
    given = parser.parse_args()
    now = time.process_time if given.processor_time else time.perf_counter
    torch.set_num_threads(given.threads)
    raw = config.read_yaml(config.find(given.config))
    chosen = settings.resolve(raw, attention=given.attention, sets=given.set)
    train = read_split(given.data, "train")
    trainer = Trainer(
        chosen, Run(Path()), load_tokenizer(given.data), train, [], torch.device("cpu"), lambda event: None
    )
    trainer.model.train()
    batches = [trainer.batch(indices) for indices in trainer.batches(0)[: WARM + TIMED]]
    for batch in batches[:WARM]:
        step(trainer, batch, Clock(now))
    clock = Clock(now)
    for batch in batches[WARM:]:
        step(trainer, batch, clock)
    for name, seconds in clock.seconds.items():
        print(f"{name:40}{1000 * seconds / TIMED:8.1f} ms an update")
    with Products() as products:
        for batch in batches[WARM:]:
            step(trainer, batch, Clock(now))
    bare = min(products.seconds(now) for _ in range(3))
    together = sum(clock.seconds.values())
    pieces = sum(int(batch.counted_BT.sum()) for batch in batches[WARM:])
    print(f"{'together':40}{1000 * together / TIMED:8.1f} ms, {pieces / together:,.0f} target pieces/s")
    share, speed = 100 * bare / together, products.operations() / bare / 1e9
    print(f"{'its matrix products, bare':40}{1000 * bare / TIMED:8.1f} ms, {share:.0f} %, {speed:,.0f} GFLOP/s")


if __name__ == "__main__":
    main()
