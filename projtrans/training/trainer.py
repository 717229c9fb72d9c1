"""The training loop: one run from update to update, with what to do when something goes wrong.

Owns the plan of the epochs, the state, the way of making updates and the validator, and reports typed events. After any
stop it reaches the very weights that it would have reached without: all that moves is in the saved state. Prints
nothing, and knows neither how an update is made nor what is scored.
"""

import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from projtrans import config, files
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DivergedError, Interrupted
from projtrans.model import devices
from projtrans.model.batching import Batches
from projtrans.runs.checkpoint import State, load_state
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, affecting, differing, flat
from projtrans.training import events
from projtrans.training.counters import Counters
from projtrans.training.distributed import ALONE, Group
from projtrans.training.epochs import EpochPlan
from projtrans.training.events import Log, Report
from projtrans.training.optimizer import rate
from projtrans.training.state import StateFiles, TrainingState
from projtrans.training.static_updates import StaticUpdates, choose_mode
from projtrans.training.updates import Objective, PlainUpdates, ShortOfMemory, Updates
from projtrans.training.validation import Validator

CHECK_UPDATES = 20
"""Updates between two readings of the count of skipped updates: reading it synchronizes the device."""

MAX_SKIPPED = 5
"""With so many updates skipped in a row up to a check, training goes back to the last good state."""

MAX_ROLLBACKS = 4
"""So many returns to a good state, each with half the learning rate, before training has diverged."""


class Trainer:
    """One run in training.

    report: called with every event; stop_signal: asked after every update; a signal number makes training save its
    state and raise Interrupted; group: the processes that train the run together.
    """

    def __init__(
        self,
        settings: Config,
        run: Run,
        tokenizer: Tokenizer,
        train: Sequence[Pair],
        valid: Sequence[Pair],
        device: torch.device,
        *,
        report: Report = lambda event: None,
        stop_signal: Callable[[], int | None] = lambda: None,
        group: Group = ALONE,
    ) -> None:
        self.settings, self.training = settings, settings.training
        self.run, self.tokenizer, self.group, self.stop_signal = run, tokenizer, group, stop_signal
        self.log = Log(run, report, writes=group.is_leader)
        self.plan = EpochPlan(settings, tokenizer, train, self.log, processes=group.size)
        self.state = TrainingState(settings, tokenizer, device)
        self.saves = StateFiles(run, settings, tokenizer.checksum, self.plan.fingerprint, group)
        self.validator = Validator(settings, run, tokenizer, valid, self.state, self.log)
        self.objective = Objective(self.state.model, self.training, device)
        self.plain = PlainUpdates(self.state, self.plan, self.objective, group)
        self.mode = choose_mode(self.training, device, group.size, self.plan.examples)
        self.updates: Updates | None = None  # made when an epoch begins; None: void, for what it was made from changed

    # Before the first update

    def initialise(self) -> None:
        """Give a new model the embeddings that its settings take from the training pairs."""
        begun = time.perf_counter()
        found = self.state.initialise(self.tokenizer, self.plan.examples, self.training.seed)
        if found:
            self.log(events.Initialised(*found, time.perf_counter() - begun))

    def restore(self) -> None:
        """Put back the last complete state, or the last good one, and report it, where the last is damaged."""
        if self.group.is_leader:
            self.run.remove_leftovers()
        saved, damage = self.saves.last()
        self._put(saved, self.run.good_file if damage else self.run.state_file)
        self.group.barrier()  # all have read it
        if self.group.is_leader:
            self.run.truncate_metrics(saved.record["metrics_bytes"])
            if damage:  # the state to go back to if memory runs out
                files.link(self.run.good_file, self.run.state_file)
        if damage:
            self.log(events.Recovered(damage, self.state.counters.update))
        elif saved.record["good"] and self.group.is_leader:  # a kill may have come between saving it and linking it
            self.saves.keep_good(self.state)
        self._change(saved.record["settings"])

    def probe(self) -> None:
        """Halve the batches until the largest fits into memory, forward and backward; the epoch then starts again."""
        before, epoch = self.state.counters.halvings, self.state.counters.current_epoch
        while not self.plain.probe(self.plan.heaviest(self.state.counters.epoch)):
            self.halve()
        if self.state.counters.halvings != before:
            self.log(self._halved(epoch))

    def follow(self) -> None:
        """Take over the leader's weights and moving average."""
        self.group.broadcast_tensors(self.state.model.parameters())
        if self.state.average:
            self.group.broadcast_tensors(self.state.average.model.parameters())

    # The loop

    def train(self) -> str:
        """Train to the end; returns the reason for it in words.

        Raises DivergedError, Interrupted, and ConfigError where one sentence pair is too large for the memory.
        """
        self.state.clock = self.saves.saved_at = time.perf_counter()
        self._save_first()
        while True:
            reason, counters = self._end(), self.state.counters
            if reason and counters.validated == counters.update:
                if self.group.is_leader:
                    self.validator.average_candidates()
                return reason
            if self._epoch():
                finite, skipped = self._validated(), self._check_skipped()
                if finite and skipped < MAX_SKIPPED:
                    self.saves.save(self.state, good=not skipped)
                else:
                    self._roll_back(_trouble(skipped) if finite else "the validation loss is not finite")
            self.state.lap()
            self._heed_signal()

    def begin_epoch(self) -> Batches:
        """Get ready for the updates of the current epoch; returns its batches. Raises ShortOfMemory."""
        number, state = self.state.counters.epoch, self.state
        state.model.train()
        batches = self.plan.batches(number)
        if self.updates is None:
            static = self.mode != "none"
            self.updates = (
                StaticUpdates(state, self.plan, self.objective, self.mode, self.log) if static else self.plain
            )
        self.updates.begin(number, batches)
        return batches

    def advance(self, first: int, last: int) -> None:
        """The update on batches `first` to `last` - 1 of the epoch that has begun. Raises ShortOfMemory."""
        assert self.updates
        self.updates.update(first, last, self._rate(self.state.counters.update + 1))
        self.state.counters.update += 1

    def halve(self) -> None:
        """Start the current epoch again with batches of half the size, twice as many an update."""
        self._replan(self.state.counters.halvings + 1)
        devices.free(self.state.device)

    def _save_first(self) -> None:
        """Save a state to go back to, where there is none yet."""
        if not self.group.is_leader or self.run.good_file.exists():
            return
        self.run.keep_config(config.dump(self.settings))  # a run resumed before its first state may have others
        self.saves.save(self.state, good=True)
        if self.state.counters.halvings:
            self.log.record(self._halved(self.state.counters.current_epoch))
        self.state.lap()

    def _epoch(self) -> bool:
        """Train to the end of the epoch or of training; False where training went back to a saved state instead."""
        try:
            return self._updates_of_epoch()
        except ShortOfMemory:
            pass  # its traceback holds tensors
        self._go_back_for_memory()
        return False

    def _updates_of_epoch(self) -> bool:
        batches = self.begin_epoch()
        self.state.lap()
        for first in range(self.state.counters.batch, len(batches), self.plan.together):
            if self._out_of_updates() or self._out_of_time():
                break
            last = min(first + self.plan.together, len(batches))
            self.advance(first, last)
            self.state.counters.batch = last
            if not self._tick():
                return False
        devices.wait(self.state.device)
        self.state.lap(updating=True)
        if self.state.counters.batch == len(batches):
            self.state.counters.epoch += 1
            self.state.counters.batch = 0
        return True

    def _tick(self) -> bool:
        """After every update: time, report, check, signal, save; False where training went back to a good state."""
        update = self.state.counters.update
        report, check = update % self.training.report_updates == 0, update % CHECK_UPDATES == 0
        if report or check:
            devices.wait(self.state.device)  # what is waited for belongs to the updates' time
        self.state.lap(updating=True)
        if report:
            self._report_progress()
        if check and (skipped := self._check_skipped()) >= MAX_SKIPPED:
            self._roll_back(_trouble(skipped))
            return False
        self._heed_signal()
        if self.state.clock - self.saves.saved_at > 60 * self.training.save_minutes:
            self.saves.save(self.state)
        self.state.lap()
        return True

    def _validated(self) -> bool:
        """Let the leader validate, and broadcast its counters; returns whether the loss is finite."""
        finite = True
        if self.group.is_leader:
            self._report_progress()
            finite = self.validator.validate()
        self.state.counters = Counters(**json.loads(self.group.broadcast(json.dumps(asdict(self.state.counters)))))
        return not self.group.all_reduce_max(not finite)

    def _rate(self, update: int) -> float:
        return 0.5**self.state.counters.rollbacks * rate(self.training, update, self.plan.last_update)

    def _report_progress(self) -> None:
        counters, recent = self.state.counters, self.state.recent
        sums = recent.take()
        if not (sums.tokens and self.group.is_leader):  # no update since the last report, or only skipped ones
            return
        counters.sums = [a + b for a, b in zip(counters.sums, sums.values(), strict=True)]
        self.log(
            events.Progress(
                epoch=counters.current_epoch,
                update=counters.update,
                last_update=self.plan.last_update,
                seconds=counters.seconds,
                loss=sums.loss,
                accuracy=sums.accuracy,
                learning_rate=self._rate(counters.update),
                gradient_norm=float(recent.norm),
                target_tokens_per_second=sums.tokens / recent.elapsed(counters.training_seconds),
            )
        )

    # When to stop

    def _end(self) -> str | None:
        """The reason in words why training is over; None where it is not."""
        counters, training = self.state.counters, self.training
        if self._out_of_updates():
            return f"all {counters.update} updates done"
        if self._out_of_time():
            return f"{training.minutes:g} minutes are over"
        if training.patience is not None and counters.waited >= training.patience:
            return f"no better validation in {counters.waited} epochs"
        return None

    def _out_of_updates(self) -> bool:
        """Whether all are made; the plan's last_update is an estimate where subword dropout makes epochs differ."""
        counters, training = self.state.counters, self.training
        return counters.epoch >= training.epochs or counters.update >= (training.updates or math.inf)

    def _out_of_time(self) -> bool:
        minutes, counters = self.training.minutes, self.state.counters
        if minutes is None or not counters.update:  # the first update is made in any case
            return False
        return bool(self.group.all_reduce_max(self.group.is_leader and counters.seconds >= 60 * minutes))

    def _heed_signal(self) -> None:
        number = self.group.all_reduce_max(self.stop_signal() or 0)
        if number:
            self.saves.save(self.state)
            self.group.barrier()  # a process that exits aborts the rest
            again = f"{self.group.command} train --resume --run {shlex.quote(str(self.run.folder))}"
            raise Interrupted(f"stopped at update {self.state.counters.update}; resume with: {again}", number)

    # Going back, and other settings

    def _check_skipped(self) -> int:
        """Report skipped updates; returns the current streak."""
        counters, (new, in_a_row) = self.state.counters, self.state.skips.take()
        if new:
            counters.skipped += new
            self.log(events.Skipped(counters.current_epoch, counters.update, new, in_a_row))
        return in_a_row

    def _roll_back(self, reason: str) -> None:
        """Go back to the last good state with half the learning rate; DivergedError after too many times."""
        lost = self.state.counters
        if lost.rollbacks == MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged: {reason} at update {lost.update}, after {MAX_ROLLBACKS} returns to a good state "
                "with half the learning rate each; lower training.learning_rate or set training.precision=fp32"
            )
        self._go_back(self.run.good_file, rollbacks=lost.rollbacks + 1, skipped=lost.skipped)
        counters = self.state.counters
        if counters.halvings != lost.halvings:
            self._replan(lost.halvings)
        factor = 0.5**counters.rollbacks
        self.log(
            events.RolledBack(counters.current_epoch, counters.update, lost.update, reason, counters.rollbacks, factor)
        )
        self.saves.save(self.state)

    def _go_back_for_memory(self) -> None:
        """Go back to the last state, as if resumed from it, with batches of half the size."""
        halvings = self.state.counters.halvings + 1  # of those in use; the saved state may know fewer
        saved = self._go_back(self.run.state_file)
        epoch = self.state.counters.current_epoch
        self._replan(halvings)
        if self.group.is_leader:
            self.run.truncate_metrics(saved.record["metrics_bytes"])
        self.log(self._halved(epoch))
        self.saves.save(self.state)

    def _go_back(self, file: Path, **kept: Any) -> State:
        """Put back a saved state, but for the time that has passed and what is `kept`."""
        lost = self.state.counters
        self.group.barrier()  # the leader has written it
        saved = load_state(self.run, file)
        self._put(saved, file)
        self.group.barrier()  # all have read it
        for name, value in {"seconds": lost.seconds, "training_seconds": lost.training_seconds, **kept}.items():
            setattr(self.state.counters, name, value)
        self.state.recent.since = lost.training_seconds
        return saved

    def _put(self, saved: State, file: Path) -> None:
        self.updates = None  # first: what it holds on the device makes room
        devices.free(self.state.device)
        self.state.put(saved, file)
        self.plan.arrange(self.state.counters)

    def _replan(self, halvings: int) -> None:
        self.state.counters.halvings = halvings
        self.state.restart_epoch()
        self.plan.arrange(self.state.counters)
        self.updates = None

    def _halved(self, epoch: int) -> events.Halved:
        counters = self.state.counters
        return events.Halved(epoch, counters.update, counters.halvings, *self.plan.size)

    def _change(self, before: dict[str, Any]) -> None:
        """Continue with the trainer's settings instead of those `before`: report and save them where they differ."""
        changed = differing([before, flat(config.dump(self.settings))])
        if not changed:
            return
        if changed.keys() & affecting("order"):
            self._replan(0)
        self.log(events.Changed(self.state.counters.update, changed))
        if not self.group.is_leader:
            return
        kept = self.run.raw_config
        self.run.keep_config(config.dump(self.settings))  # first: the state still knows what is new about it
        try:
            self.saves.save(self.state, good=not self.state.skips.values()[0])
        except BaseException:
            self.run.keep_config(kept)
            raise


def _trouble(skipped: int) -> str:
    return f"{skipped} updates in a row without finite loss and gradient"
