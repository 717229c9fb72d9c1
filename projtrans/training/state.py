"""Everything that moves while a run is trained: saved whole, put back to the bit, planned from where it stands.

Weights, moments, average, generators, counters, and the order of the data, which is a function of seed, epoch and batch
size. Trains nothing.
"""

import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch

from projtrans import config, files
from projtrans.data.corpus import Pair
from projtrans.data.encoded_corpus import sample
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError, RunError
from projtrans.model.batching import Batch, Batches, Examples, epoch, padding, sizes
from projtrans.runs.build import build_model, encode, layout_of
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
from projtrans.runs.settings import Config, affecting, differing, flat
from projtrans.training.counters import Counters, Skips, Sums, Window
from projtrans.training.distributed import ALONE, Group
from projtrans.training.events import Changed, Halved, Recovered, Report, RolledBack, Sampling, Skipped, Trouble
from projtrans.training.optimizer import Average, build_optimizer

NAMES = {Skipped: "skipped", RolledBack: "rollback", Halved: "halved", Changed: "changed"}
"""What goes wrong or is changed, as metrics.jsonl names it."""


class TrainState:
    """One run being trained, at any moment between two updates."""

    def __init__(
        self,
        settings: Config,
        run: Run,
        tokenizer: Tokenizer,
        train: Sequence[Pair],
        valid: Sequence[Pair],
        device: torch.device,
        report: Report,
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.settings, self.training = settings, settings.training
        self.run, self.device, self.report = run, device, report
        self.tokenizer, self.pairs, self.valid = tokenizer, train, valid
        self.layout = layout_of(tokenizer, settings.corpus, settings.model)
        self.examples = encode(tokenizer, self.layout, train, cut=settings.corpus.overlong == "cut")
        self.sampled: tuple[int, Examples] | None = None  # an epoch with dropout of subwords
        self.left_out = len(train) - len(self.examples)
        if not self.examples:
            raise DataError(
                f"corpus.max_length: {settings.corpus.max_length} leaves none of {len(train)} training pairs; raise it"
            )
        if self.training.subword_dropout:
            tokenizer.check_sampling()
        torch.manual_seed(self.training.seed)
        self.model = build_model(settings.model, settings.corpus, tokenizer).to(device)
        self.optimizer = build_optimizer(self.model, self.training)
        self.average = Average(self.model, self.training.average) if self.training.average else None
        self.counters, self.skips = Counters(), Skips(device)
        self._plan()
        self.window = Window(device)
        self.clock = self.saved_at = time.perf_counter()
        self.stop_signal: Callable[[], int | None] = lambda: None

    # State

    def save(self, *, good: bool = False) -> None:
        """Write the complete state, and let runs/latest point here; good: it is one to go back to.

        The leader's is everyone's."""
        if not self.group.is_leader:
            return
        tensors = named("model", dict(self.model.named_parameters()))
        if self.average:
            tensors |= named("average", dict(self.average.model.named_parameters()))
        tensors |= named("optimizer", optimizer_tensors(self.model, self.optimizer))
        tensors |= named("random", random_tensors(self.device))
        self.run.sync_metrics()
        record = {
            "counters": asdict(self.counters),
            "average_updates": float(self.average.updates) if self.average else 0.0,
            "window": list(self.window.sums.values()),
            "norm": float(self.window.norm),
            "since": self.window.since,
            "skips": self.skips.values(),
            "good": good,
            "metrics_bytes": self.run.metrics_bytes,
            "tokenizer": self.tokenizer.checksum,
            "processes": self.group.size,
            "pairs": self.fingerprint,
            "settings": flat(config.dump(self.settings)),
        }
        save_state(self.run, State(record, tensors))
        if good:
            files.link(self.run.state_file, self.run.good_file)
            self._prune()
        counters = self.counters
        if counters.best is not None or (counters.update and not counters.validated):  # it has come to something
            self.run.mark_latest()
        self.saved_at = time.perf_counter()

    def _prune(self) -> None:
        """Forget weights that are not to be averaged any more, now that no state to go back to knows them."""
        prune_candidates(self.run, (update for update, _ in self.counters.candidates))

    @cached_property
    def fingerprint(self) -> int:
        """A number that other training pairs would not have: their lengths in order, in 32 bits."""
        return zlib.crc32(self.examples.lengths.astype(np.int32).tobytes())

    def restore(self) -> None:
        """Go back to the last complete state; to the last good one, and say so, where that is damaged."""
        if self.group.is_leader:
            self.run.remove_leftovers()
        state, damage = self._last_state()
        if state.record["tokenizer"] != self.tokenizer.checksum:
            raise DataError(f"run {self.run.folder}: was trained with another tokenizer than the data folder's")
        if state.record["pairs"] != self.fingerprint:
            raise DataError(
                f"run {self.run.folder}: was trained on other training pairs than the data folder's; name its own with "
                "--data DIR, or train anew under another --run DIR"
            )
        if state.record["processes"] != self.group.size:
            trained = Group(size=state.record["processes"]).command
            raise ConfigError(f"run {self.run.folder}: begun as {trained} train; another number changes its batches")
        self._put(state)
        self.group.barrier()  # all have read it
        if self.group.is_leader:
            self.run.truncate_metrics(state.record["metrics_bytes"])
        if damage:
            self._tell(Recovered(damage, self.counters.update))
        elif state.record["good"] and self.group.is_leader:  # it may have been killed between the two
            files.link(self.run.state_file, self.run.good_file)
            self._prune()
        self._change(state.record["settings"])

    def _last_state(self) -> tuple[State, str | None]:
        """The state to go on from; and what is wrong with the last one, where it is not that."""
        try:
            return load_state(self.run), None
        except RunError as error:
            try:
                return load_state(self.run, self.run.good_file), str(error)
            except RunError:
                raise error from None

    def _put(self, state: State) -> None:
        """Put everything that moves where the state has it."""
        record, source = state.record, self.run.state_file
        self.counters = Counters(**record["counters"])
        load_weights(self.model, below("model", state.tensors), source)
        if self.average:
            load_weights(self.average.model, below("average", state.tensors), source)
            self.average.updates.fill_(record["average_updates"])
        self.optimizer.state.clear()  # a state from before the first update has no moments
        restore_optimizer(self.model, self.optimizer, below("optimizer", state.tensors))
        restore_random(self.device, below("random", state.tensors))
        self.window.put(record["window"])
        self.window.since = record["since"]
        self.window.norm = torch.tensor(record["norm"])
        self.skips.restore(record["skips"])
        self._plan()

    def _change(self, before: dict[str, Any]) -> None:
        """Take note of the settings that the run is to go on with instead of those `before`."""
        changed, counters = differing([before, flat(config.dump(self.settings))]), self.counters
        if not changed:
            return
        if changed.keys() & affecting("order"):
            counters.batch = counters.halvings = 0  # places in an epoch of other batches mean nothing: it begins anew
            counters.sums = list(Sums().values())
            self.window.put(Sums().values())
            self._replan()
        self._tell(Changed(counters.update, changed))
        if not self.group.is_leader:
            return
        kept = self.run.raw_config
        self.run.keep_config(config.dump(self.settings))  # first: the state still knows what is new about it
        try:
            self.save(good=not self.skips.values()[0])
        except BaseException:
            self.run.keep_config(kept)
            raise

    # Data

    def _plan(self) -> None:
        """How many updates an epoch has, and which one will be the last."""
        counters, training = self.counters, self.training
        first = self.batches(0)
        self.together = self._sizes(counters.halved)[2] * self.group.size  # batches an update, of all processes
        self.per_epoch = math.ceil(len(first) / self.together)
        lengths_N2 = self.examples_of(0).lengths
        self.padding, self.sizes_B3 = padding(first, lengths_N2, self.layout), sizes(first, lengths_N2, self.layout)
        last = counters.planned_update + self.per_epoch * (training.epochs - counters.planned_epoch)
        self.last_update = min(last, training.updates or 2**62)

    def _sizes(self, halvings: int) -> tuple[int, int | None, int]:
        """Tokens and sentences of a batch, and batches an update, after so many halvings."""
        training = self.training
        sentences = training.batch_sentences and max(1, training.batch_sentences >> halvings)
        return max(1, training.batch_tokens >> halvings), sentences, training.accumulation << halvings

    def batches(self, number: int) -> Batches:
        """The examples of every batch of epoch `number`."""
        training, (tokens, sentences, _) = self.training, self._sizes(self.counters.halved)
        return epoch(
            self.examples_of(number).lengths,
            tokens=tokens,
            sentences=sentences,
            by_length=training.by_length,
            seed=training.seed,
            number=number,
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Those examples of the current epoch as one batch."""
        examples = self.examples_of(self.counters.epoch)
        return self.layout.batch([examples[i] for i in indices])

    def examples_of(self, number: int) -> Examples:
        """The training pairs in pieces, where subwords are dropped as epoch `number` has them."""
        training, total = self.training, len(self.pairs)
        if not training.subword_dropout:
            return self.examples
        if self.sampled is None or self.sampled[0] != number:
            sides = sample(
                self.tokenizer,
                self.pairs,
                training.subword_dropout,
                training.seed,
                number,
                lambda done: self.report(Sampling(done, total)),
            )
            self.sampled = number, Examples(self.layout, *sides, cut=self.settings.corpus.overlong == "cut")
        return self.sampled[1]

    def _take_halves(self) -> None:
        """At the beginning of an epoch: make its batches of the size that memory has turned out to have room for."""
        self._share_halvings()
        if self.counters.halved != self.counters.halvings:
            self._replan()

    def _share_halvings(self) -> None:
        """Let memory that one process lacks be known to all."""
        known, self.counters.halvings = self.counters.halvings, self.group.all_reduce_max(self.counters.halvings)
        if self.counters.halvings != known:
            self._tell(self._halved())

    def _halved(self) -> Halved:
        counters = self.counters
        sizes = self._sizes(counters.halvings)
        return Halved(counters.current_epoch, counters.update, counters.halvings, *sizes)

    def _replan(self) -> None:
        counters = self.counters
        counters.halved = counters.halvings
        counters.planned_update, counters.planned_epoch = counters.update, counters.epoch
        self._plan()

    # The log

    def _tell(self, event: Trouble) -> None:
        """Report the event, and log it where there is a state that knows how long the log was before."""
        self.report(event)
        if self.run.has_begun and self.group.is_leader:
            self._log(event)

    def _log(self, event: Trouble) -> None:
        if type(event) in NAMES:
            self.run.append_metrics({"event": NAMES[type(event)], **asdict(event)})
