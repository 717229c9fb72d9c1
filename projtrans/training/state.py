"""Everything that moves while a run is trained: what a checkpoint holds (runs/checkpoint.py writes it).

Weights, moments, moving average, generators, counters and sums. The order of the data needs no saving: it is a function
of seed, epoch and batch size. Makes no update and decides nothing.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projtrans import config, files
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError, RunError
from projtrans.model.batching import Examples
from projtrans.model.multihead import constrain
from projtrans.runs.build import build_model, initialise
from projtrans.runs.checkpoint import (
    State,
    below,
    load_state,
    load_weights,
    named,
    optimizer_tensors,
    prune_candidates,
    random_tensors,
    restore_optimizer,
    restore_random,
    save_state,
)
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, flat
from projtrans.training.counters import Counters, SinceReport, Skips, Sums
from projtrans.training.distributed import Group
from projtrans.training.optimizer import Average, build_optimizer, step


class TrainingState:
    """A model in training with everything that moves beside it, from its fresh weights on."""

    def __init__(self, settings: Config, tokenizer: Tokenizer, device: torch.device) -> None:
        training = settings.training
        self.device = device
        torch.manual_seed(training.seed)
        self.model = build_model(settings.model, settings.corpus, tokenizer).to(device)
        self.optimizer = build_optimizer(self.model, training)
        self.average = Average(self.model, training.average) if training.average else None
        self.counters, self.skips, self.recent = Counters(), Skips(device), SinceReport(device)
        self.clock = time.perf_counter()

    def initialise(self, tokenizer: Tokenizer, examples: Examples, seed: int) -> tuple[int, int] | None:
        """Give a new model, and its average, the embeddings that its settings take from the training pairs.

        Returns how many tokens got one, and how many there are; None where the settings ask for none.
        """
        found = initialise(self.model, tokenizer, examples, seed)
        if found and self.average:
            self.average.model.load_state_dict(self.model.state_dict())
        return found

    def move(self, loss: Tensor, norm: Tensor) -> Tensor:
        """One step of the optimizer by the gradients, or none where loss or norm is not finite; returns 1.0 then.

        Operations of the device alone: nothing synchronizes it.
        """
        skip = self.skips.judge(loss, norm)
        step(self.optimizer, skip)
        constrain(self.model)
        if self.average:
            self.average.update(self.model, skip)
        return skip

    def lap(self, *, updating: bool = False) -> None:
        """Count the time since the last lap: spent on updates, or on anything else."""
        begun, self.clock = self.clock, time.perf_counter()
        self.counters.seconds += self.clock - begun
        self.counters.training_seconds += self.clock - begun if updating else 0.0

    def restart_epoch(self) -> None:
        """Start the current epoch again with other batches."""
        self.counters.restart_epoch()
        self.recent.put(Sums().values())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a saved state."""
        average = named("average", dict(self.average.model.named_parameters())) if self.average else {}
        return {
            **named("model", dict(self.model.named_parameters())),
            **average,
            **named("optimizer", optimizer_tensors(self.model, self.optimizer)),
            **named("random", random_tensors(self.device)),
        }

    def record(self) -> dict[str, Any]:
        """The numbers of a saved state."""
        return {
            "counters": vars(self.counters),
            "average_updates": float(self.average.updates) if self.average else 0.0,
            "window": list(self.recent.sums.values()),
            "norm": float(self.recent.norm),
            "since": self.recent.since,
            "skips": self.skips.values(),
        }

    def put(self, saved: State, source: Path) -> None:
        """Put back everything as `source` has it."""
        record, counters = saved.record, dict(saved.record["counters"])
        halved = counters.pop("halved", counters["halvings"])  # version 0.1: halvings before the epoch began
        self.counters = Counters(**counters)
        load_weights(self.model, below("model", saved.tensors), source)
        if self.average:
            load_weights(self.average.model, below("average", saved.tensors), source)
            self.average.updates.fill_(record["average_updates"])
        self.optimizer.state.clear()  # a state from before the first update has no moments
        restore_optimizer(self.model, self.optimizer, below("optimizer", saved.tensors))
        restore_random(self.device, below("random", saved.tensors))
        self.recent.put(record["window"])
        self.recent.since = record["since"]
        self.recent.norm = torch.tensor(record["norm"])
        self.skips.restore(record["skips"])
        if halved != self.counters.halvings:  # it also halved batches within an epoch, as nothing does any more
            self.restart_epoch()


class StateFiles:
    """The saved states of a run: the last one, and the last good one to go back to. The leader's are everyone's."""

    def __init__(self, run: Run, settings: Config, checksum: str, fingerprint: int, group: Group) -> None:
        """checksum: of the tokenizer; fingerprint: of the training pairs."""
        self.run, self.settings, self.group = run, settings, group
        self.made_from = {"tokenizer": checksum, "processes": group.size, "pairs": fingerprint}
        self.saved_at = time.perf_counter()

    def save(self, state: TrainingState, *, good: bool = False) -> None:
        """Write the complete state, and point runs/latest here; good: it is one to go back to."""
        if not self.group.is_leader:
            return
        self.run.sync_metrics()
        record = {
            **state.record(),
            "good": good,
            "metrics_bytes": self.run.metrics_bytes,
            **self.made_from,
            "settings": flat(config.dump(self.settings)),
        }
        save_state(self.run, State(record, state.tensors()))
        if good:
            self.keep_good(state)
        counters = state.counters
        if counters.best is not None or (counters.update and not counters.validated):  # there is something to resume
            self.run.mark_latest()
        self.saved_at = time.perf_counter()

    def keep_good(self, state: TrainingState) -> None:
        """Make the last state the one to go back to; weights that neither of them would average are removed."""
        files.link(self.run.state_file, self.run.good_file)
        prune_candidates(self.run, (update for update, _ in state.counters.candidates))

    def last(self) -> tuple[State, str | None]:
        """The state to resume from, and how the last one is damaged where it is the last good one instead.

        Raises DataError and ConfigError where it was trained on other data or by another number of processes.
        """
        try:
            saved, damage = load_state(self.run), None
        except RunError as error:
            try:
                saved, damage = load_state(self.run, self.run.good_file), str(error)
            except RunError:
                raise error from None
        self._check(saved.record)
        return saved, damage

    def _check(self, record: dict[str, Any]) -> None:
        if record["tokenizer"] != self.made_from["tokenizer"]:
            raise DataError(f"run {self.run.folder}: was trained with another tokenizer than the data folder's")
        if record["pairs"] != self.made_from["pairs"]:
            raise DataError(
                f"run {self.run.folder}: was trained on other training pairs than the data folder's; name its own with "
                "--data DIR, or train anew under another --run DIR"
            )
        if record["processes"] != self.group.size:
            trained = Group(size=record["processes"]).command
            raise ConfigError(
                f"run {self.run.folder}: started as {trained} train; another number of processes changes its batches"
            )
