"""Where a training step goes: `python docs/step.py DATA [--config NAME] [--attention KIND] [--set ...] ...`."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from projtrans.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import torch  # noqa: E402

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
    together = sum(clock.seconds.values())
    pieces = sum(int(batch.counted_BT.sum()) for batch in batches[WARM:])
    print(f"{'together':40}{1000 * together / TIMED:8.1f} ms, {pieces / together:,.0f} target pieces/s")


if __name__ == "__main__":
    main()
