"""The training loop: one run's model with everything that moves, from update to update.

Reports typed events through a callable and prints nothing. After any stop it goes on to the very weights that it would
have reached without the stop: the order of the data is a function of seed and epoch, and everything else that moves is
in the saved state. No update waits for the device, and none that is not finite changes anything.
"""

import copy
import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from projtrans import __version__, config
from projtrans.data.corpus import Pair
from projtrans.errors import ConfigError, DivergedError, Interrupted
from projtrans.evaluation.evaluate import forced
from projtrans.evaluation.metrics import bleu, chrf, references_of
from projtrans.inference.torch_translator import Translator
from projtrans.model import devices
from projtrans.model.attention_statistics import Statistics, attention_statistics
from projtrans.model.batching import Batch, Batches, fixed_batches, heaviest
from projtrans.model.multihead import constrain
from projtrans.model.transformer import Transformer
from projtrans.runs.build import encode, initialise
from projtrans.runs.checkpoint import (
    load_state,
    load_weights,
    mean_of_candidates,
    random_tensors,
    restore_random,
    save_candidate,
    save_model,
)
from projtrans.training.counters import Counters, Sums
from projtrans.training.events import (
    Averaged,
    Initialised,
    Progress,
    Recorded,
    RolledBack,
    Skipped,
    Validated,
    Validating,
)
from projtrans.training.optimizer import clip, rate, set_rate, step
from projtrans.training.static_updates import Mode, StaticUpdates, mode_of
from projtrans.training.updates import Objective

LOOK_UPDATES = 20
"""Updates between two looks at the count of updates left out: a look waits for the device."""

MAX_SKIPPED = 5
"""So many updates left out in a row up to a look, and training goes back to the last good state."""

MAX_ROLLBACKS = 4
"""So many returns to a good state, each with half the learning rate, before training has diverged."""

WATCHED = 64
"""Sentences of the validation sample on which attention is looked at."""

WATCHED_TOKENS = 2048
"""Target pieces of them at a time, padding included: the weights of one module at a time are held whole."""


class Trainer(Objective):
    """One run being trained: what happens from update to update."""

    mode: Mode | None = None  # how updates are made
    static: StaticUpdates | None = None  # of the current epoch
    averaged: Averaged | None = None  # at the end, where weights were averaged

    def initialise(self) -> None:
        """Give a new model the embeddings that its settings take from the training pairs."""
        begun = time.perf_counter()
        found = initialise(self.model, self.tokenizer, self.examples, self.training.seed)
        if found:
            if self.average:
                self.average.model.load_state_dict(self.model.state_dict())
            self.report(Initialised(*found, time.perf_counter() - begun))

    def follow(self) -> None:
        """Take over the leader's weights and moving average."""
        self.group.broadcast_tensors(self.model.parameters())
        if self.average:
            self.group.broadcast_tensors(self.average.model.parameters())

    # The loop

    def train(self) -> str:
        """Train to the end; returns the reason for it in words."""
        self.clock, self.saved_at = time.perf_counter(), time.perf_counter()
        if self.group.is_leader and not self.run.good_file.exists():
            self.run.keep_config(config.dump(self.settings))  # a run resumed before its first state may have others
            self.save(good=True)
            if self.counters.halvings:
                self._log(self._halved())
            self._lap()
        while True:
            reason = self._end()
            if reason and self.counters.validated == self.counters.update:
                if self.group.is_leader:
                    self._average_candidates()
                return reason
            if self._epoch():
                finite = self._validated()
                skipped = self._look()
                if finite and skipped < MAX_SKIPPED:
                    self.save(good=not skipped)
                else:
                    self._roll_back(_trouble(skipped) if finite else "the validation loss is not finite")
            self._lap()
            self._heed_signal()

    def _validated(self) -> bool:
        """Let the leader validate, and all know what came of it: whether the loss is finite."""
        finite = self._validate() if self.group.is_leader else True
        self.counters = Counters(**json.loads(self.group.broadcast(json.dumps(asdict(self.counters)))))
        return not self.group.all_reduce_max(not finite)

    def _epoch(self) -> bool:
        """Train to the end of the epoch or of training; False where training went back to a good state instead."""
        self.model.train()
        batches, size = self.batches(self.counters.epoch), self.together
        self.prepare()
        self._lap()
        for first in range(self.counters.batch, len(batches), size):
            if self._out_of_updates() or self._out_of_time():
                break
            self.advance(batches, first)
            self.counters.batch = min(first + size, len(batches))
            if not self._tick():
                return False
        devices.wait(self.device)
        self._lap(updating=True)
        if self.counters.batch == len(batches):
            self.counters.epoch += 1
            self.counters.batch = 0
            self._take_halves()
        return True

    def prepare(self) -> None:
        """Have the current epoch's updates ready in fixed shapes, where that is how they are to be made."""
        counters = self.counters
        cut = counters.halvings != counters.halved  # what is left of the epoch's batches
        if self.mode is None or self.mode == "none" or cut:
            self.static = None
            return
        try:
            new = self.static is None
            static = self.static = self.static or StaticUpdates(self, self.mode)
            padding = static.begin(counters.epoch)
            if new:
                self.report(Recorded(static.mode, len(static.shapes), padding, static.seconds))
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            self._short_of_memory(self.batch(self.batches(counters.epoch)[0]))

    def advance(self, batches: Batches, first: int) -> None:
        """The update that begins with batch `first` of the current epoch."""
        last = min(first + self.together, len(batches))
        if self.static and self.static.update(first, last, self._rate(self.counters.update + 1)):
            self.counters.update += 1
            return
        if self.static:
            self._short_of_memory(self.batch(batches[first]))
        self.update([self.batch(indices) for indices in self.group.share(batches[first:last])])

    def _short_of_memory(self, batch: Batch) -> None:
        self.static = None
        self.optimizer.zero_grad()
        self._halve(batch)

    def _plan(self) -> None:
        super()._plan()
        self.mode = self.mode or mode_of(self)
        self.static = None  # other shapes, or other moments

    def update(self, batches: Sequence[Batch]) -> None:
        """One step of the optimiser on the mean gradient of all positions that the batches count.

        A single process never waits for the device here: whether loss and gradient are finite is found there, and
        acted upon there.
        """
        set_rate(self.optimizer, self._rate(self.counters.update + 1))
        self.group.seed(self.training.seed, self.counters.update)
        (positions,) = self.group.all_reduce_sum([sum(self.positions(batch) for batch in batches)])
        loss, gathered = self._gradient(batches, positions)
        if self.group.size > 1:
            self.group.add_gradients(self.model.parameters())
            total, *sums = self.group.all_reduce_sum([float(loss), *gathered.values()])
            loss, gathered = torch.tensor(total, device=self.device), Sums(*sums)
        self.window.norm = clip(self.model.parameters(), self.training.clip_norm)
        self.counters.update += 1
        skip = self.skips.judge(loss, self.window.norm)
        self.window.sums.join(gathered, skip)
        step(self.optimizer, skip)
        constrain(self.model)
        if self.average:
            self.average.update(self.model, skip)
        self.optimizer.zero_grad()

    def _rate(self, update: int) -> float:
        return 0.5**self.counters.rollbacks * rate(self.training, update, self.last_update)

    def _gradient(self, batches: Sequence[Batch], positions: float) -> tuple[Tensor, Sums]:
        """Leave the gradient of the loss over `positions`; where memory is short, from halves of the batches."""
        while True:
            generators, tried = random_tensors(self.device), list[Batch]()
            parts = 2 ** (self.counters.halvings - self.counters.halved)
            try:
                return self._accumulate([part for batch in batches for part in batch.parts(parts)], positions, tried)
            except (RuntimeError, MemoryError) as error:
                if not devices.out_of_memory(error):
                    raise
            self.optimizer.zero_grad()  # outside of `except`, which holds the tensors of the failed attempt
            restore_random(self.device, generators)
            self._halve(tried[-1])

    def _accumulate(self, batches: Sequence[Batch], positions: float, tried: list[Batch]) -> tuple[Tensor, Sums]:
        """The same without a second try; `tried` gets every batch that is begun."""
        gathered, total = Sums(), torch.zeros((), device=self.device)
        for batch in batches:
            tried.append(batch)
            batch = batch.to(self.device)
            losses = self.losses(batch, *self.passes(batch))
            loss = torch.stack([loss.smoothed for loss in losses]).sum() / positions
            loss.backward()
            total = total + loss.detach()
            gathered.add(losses, len(batch.real_N), batch.counted_BT.numel())
        return total, gathered

    def _tick(self) -> bool:
        """After every update: time, report, look, save, stop signal; False where training went back to a good state."""
        counters = self.counters
        if counters.update % self.training.report_updates == 0 or counters.update % LOOK_UPDATES == 0:
            devices.wait(self.device)  # what is waited for now belongs to the updates' time
        self._lap(updating=True)
        if counters.update % self.training.report_updates == 0:
            self._report_progress()
        if counters.update % LOOK_UPDATES == 0 and (skipped := self._look()) >= MAX_SKIPPED:
            self._roll_back(_trouble(skipped))
            return False
        self._heed_signal()
        if self.clock - self.saved_at > 60 * self.training.save_minutes:
            self.save()
        self._lap()
        return True

    def _lap(self, *, updating: bool = False) -> None:
        """Count the time since the last lap, which went into updates or into anything else."""
        begun, self.clock = self.clock, time.perf_counter()
        self.counters.seconds += self.clock - begun
        self.counters.training_seconds += self.clock - begun if updating else 0.0

    def _heed_signal(self) -> None:
        number = self.group.all_reduce_max(self.stop_signal() or 0)
        if number:
            self.save()
            self.group.barrier()  # who ends takes the others along
            again = f"{self.group.command} train --resume --run {shlex.quote(str(self.run.folder))}"
            raise Interrupted(f"stopped at update {self.counters.update}; go on with: {again}", number)

    def _report_progress(self) -> None:
        counters, sums = self.counters, self.window.take()
        if not (sums.pieces and self.group.is_leader):  # no update since the last report, or only skipped ones
            return
        counters.sums = [a + b for a, b in zip(counters.sums, sums.values(), strict=True)]
        progress = Progress(
            epoch=counters.current_epoch,
            update=counters.update,
            last_update=self.last_update,
            seconds=counters.seconds,
            loss=sums.loss,
            accuracy=sums.accuracy,
            learning_rate=self._rate(counters.update),
            gradient_norm=float(self.window.norm),
            target_tokens_per_second=sums.pieces / self.window.elapsed(counters.training_seconds),
        )
        self.run.append_metrics({"event": "train", **asdict(progress)})
        self.report(progress)

    # When something goes wrong

    def probe(self) -> None:
        """Run the largest batch forward and backward and throw its gradient away: what does not fit shows at once."""
        generators, heads, width = random_tensors(self.device), self.settings.model.heads, self.settings.model.width
        lengths_N2 = self.examples_of(self.counters.epoch).lengths
        if not self.layout.mask_padding:
            lengths_N2 = np.full_like(lengths_N2, self.layout.max_length)
        batches = self.batches(self.counters.epoch)
        largest = heaviest(batches, lengths_N2, by_length=self.training.by_length, width=width, heads=heads)
        # The optimiser will hold two numbers a weight; after an update they are there, and before it no memory is.
        moments = [] if self.optimizer.state else [torch.empty_like(p) for p in [*self.model.parameters()] * 2]
        self.model.train()
        batch = self.batch(largest)
        self._gradient([batch], self.positions(batch))
        del moments
        self.optimizer.zero_grad()
        restore_random(self.device, generators)
        self._share_halvings()
        if not self.counters.batch:
            self._take_halves()

    def _halve(self, batch: Batch) -> None:
        """Go on with batches of half the size, twice as many an update; ConfigError where the batch is a single pair.

        What is left of this epoch's batches is cut, the next epoch's are made of that size: the order of the data stays
        a function of seed, epoch and size.
        """
        if batch.sentences == 1:
            S, T = batch.source_BS.shape[1], batch.target_out_BT.shape[1]
            raise ConfigError(
                f"out of memory on {devices.describe(self.device)} with one sentence pair of {S} source and {T} target "
                "pieces; lower corpus.max_length, model.width or model.layers, or use another --device"
            )
        devices.free(self.device)
        self.counters.halvings += 1
        self._tell(self._halved())

    def _look(self) -> int:
        """Tell of the updates that were left out; returns how many it were in a row up to the last one."""
        counters, (new, in_a_row) = self.counters, self.skips.take()
        if new:
            counters.skipped += new
            self._tell(Skipped(counters.current_epoch, counters.update, new, in_a_row))
        return in_a_row

    def _roll_back(self, reason: str) -> None:
        """Go back to the last good state with half the learning rate; DivergedError where that was done too often."""
        lost = self.counters
        if lost.rollbacks == MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged: {reason} at update {lost.update}, after {MAX_ROLLBACKS} returns to a good state "
                "with half the learning rate each; lower training.learning_rate or set training.precision=fp32"
            )
        self.group.barrier()  # the leader has written it
        self._put(load_state(self.run, self.run.good_file))
        kept = ("skipped", "halvings", "seconds", "training_seconds")
        self.counters = replace(
            self.counters, rollbacks=lost.rollbacks + 1, **{name: getattr(lost, name) for name in kept}
        )
        self.window.since = self.counters.training_seconds
        if not self.counters.batch:
            self._take_halves()
        counters = self.counters
        factor = 0.5**counters.rollbacks
        self._tell(RolledBack(counters.current_epoch, counters.update, lost.update, reason, counters.rollbacks, factor))
        self.save()

    # When to look, when to stop

    def _validate(self) -> bool:
        """Score the averaged weights on the validation split; save them where they are the best so far.

        Returns whether their loss is finite.
        """
        self._report_progress()
        counters = self.counters
        counters.validated = counters.update
        translator = self.translator()
        scores = forced(translator, self.valid, self._report_validating)
        sample_bleu, sample_chrf = self._sample_scores(translator) if math.isfinite(scores.loss) else (0.0, 0.0)
        attention = self._attention(translator)
        score = -scores.loss if self.training.best == "loss" else sample_bleu
        self._keep_candidate(translator.model, score)
        best = math.isfinite(score) and (counters.best is None or score > counters.best)
        counters.best, counters.waited = (score, 0) if best else (counters.best, counters.waited + 1)
        self._lap()
        if best:
            counters.best_epoch = counters.current_epoch
            self._save_best(translator.model, scores.loss, sample_bleu)
        trained, counters.sums = Sums(*counters.sums), list(Sums().values())
        validated = Validated(
            epoch=counters.current_epoch,
            update=counters.update,
            seconds=counters.seconds,
            training_seconds=counters.training_seconds,
            loss=scores.loss,
            accuracy=scores.accuracy,
            accuracy_with_padding=scores.accuracy_with_padding,
            bleu=sample_bleu,
            chrf=sample_chrf,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            train_accuracy_with_padding=trained.accuracy_with_padding if self.training.padding_in_loss else None,
            best=best,
            attention=attention,
        )
        self.run.append_metrics({"event": "valid", **asdict(validated)})
        self.report(validated)
        return math.isfinite(scores.loss)

    def _report_validating(self, done: int, total: int) -> None:
        self.report(Validating(done, total))

    def _sample_scores(self, translator: Translator) -> tuple[float, float]:
        """BLEU and chrF of the validation sample."""
        sample = self._sample()
        hypotheses = [translation.text for translation in translator.translate([pair.source for pair in sample])]
        references = [references_of(self.tokenizer, sample)]
        return bleu(hypotheses, references).score, chrf(hypotheses, references).score

    def _attention(self, translator: Translator) -> Statistics:
        """What attention does on the first sentences of the validation sample."""
        examples = encode(self.tokenizer, self.layout, self._sample()[:WATCHED], cut=True)
        batches = (batch.to(self.device) for _, batch in fixed_batches(examples, self.layout, WATCHED_TOKENS))
        return attention_statistics(translator.model, batches, self.layout.pad_id)

    def _sample(self) -> Sequence[Pair]:
        """Some sentences of the validation split, the same at every validation."""
        sample = self.valid[:: max(1, len(self.valid) // self.training.validation_sentences)]
        return sample[: self.training.validation_sentences]

    def translator(self, model: Transformer | None = None) -> Translator:
        """A translator of the weights as they stand (averaged, where an average is kept), greedy or a small beam."""
        model = (model or (self.average.model if self.average else self.model)).eval()
        decoding = replace(self.settings.decoding, beam_size=self.training.validation_beam, sample=False)
        return Translator(model, self.tokenizer, self.layout, decoding, self.device)

    def _keep_candidate(self, model: Transformer, score: float) -> None:
        """Keep the validated weights, if they are among the best; what they displace goes when the state is saved."""
        counters, wanted = self.counters, self.training.average_checkpoints
        if wanted is None or not math.isfinite(score):
            return
        found = sorted([*counters.candidates, (counters.update, score)], key=lambda pair: pair[1], reverse=True)
        counters.candidates = found[:wanted]
        if (counters.update, score) in counters.candidates:
            save_candidate(self.run, counters.update, dict(model.named_parameters()))

    def _average_candidates(self) -> None:
        """At the end: try the mean of the best validated weights, and keep it where it is better."""
        counters, updates = self.counters, sorted(update for update, _ in self.counters.candidates)
        if len(updates) < 2:
            return
        model = copy.deepcopy(self.model)
        load_weights(model, mean_of_candidates(self.run, updates), self.run.state_file.parent)
        translator = self.translator(model)
        scores = forced(translator, self.valid, self._report_validating)
        sample_bleu, sample_chrf = self._sample_scores(translator)
        score = -scores.loss if self.training.best == "loss" else sample_bleu
        best = counters.best is not None and score > counters.best
        if best:
            self._save_best(model, scores.loss, sample_bleu)
        self.averaged = Averaged(
            update=counters.update,
            updates=updates,
            loss=scores.loss,
            accuracy=scores.accuracy,
            bleu=sample_bleu,
            chrf=sample_chrf,
            best=best,
        )
        self.run.append_metrics({"event": "average", **asdict(self.averaged)})
        self.report(self.averaged)
        self._lap()

    def _end(self) -> str | None:
        counters, training = self.counters, self.training
        if self._out_of_updates() or counters.epoch >= training.epochs:
            return f"all {counters.update} updates done"
        if self._out_of_time():
            return f"{training.minutes:g} minutes are over"
        if training.patience is not None and counters.waited >= training.patience:
            return f"no better validation in {counters.waited} epochs"
        return None

    def _out_of_updates(self) -> bool:
        """With dropout of subwords epochs differ in their updates: last_update is what the first one makes expect."""
        counters, training = self.counters, self.training
        return counters.epoch >= training.epochs or counters.update >= (training.updates or math.inf)

    def _out_of_time(self) -> bool:
        if self.training.minutes is None or not self.counters.update:  # the first update is made in any case
            return False
        return bool(
            self.group.all_reduce_max(self.group.is_leader and self.counters.seconds >= 60 * self.training.minutes)
        )

    def _save_best(self, model: Transformer, loss: float, sample_bleu: float) -> None:
        record = {"update": self.counters.update, "valid_loss": loss, "valid_bleu": sample_bleu, "version": __version__}
        save_model(self.run, dict(model.named_parameters()), self.tokenizer, record)


def _trouble(skipped: int) -> str:
    return f"{skipped} updates in a row without finite loss and gradient"
