"""The training loop: one run's model with everything that moves, from update to update.

Reports typed events through a callable and prints nothing. After any stop it goes on to the very weights that it would
have reached without the stop: the order of the data is a function of seed and epoch, and everything else that moves is
in the saved state.
"""

import copy
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from projtrans import __version__, config
from projtrans import device as devices
from projtrans.batching import Batch, Batches, Examples, epoch, fixed_batches, padding
from projtrans.checkpoint import (
    State,
    below,
    build_model,
    initialise,
    load_state,
    load_weights,
    mean_of_candidates,
    named,
    optimizer_tensors,
    prune_candidates,
    random_tensors,
    restore_optimizer,
    restore_random,
    save_candidate,
    save_model,
    save_state,
)
from projtrans.corpus import Pair
from projtrans.distributed import ALONE, Group
from projtrans.encoding import sample
from projtrans.errors import ConfigError, DataError, DivergedError, Interrupted
from projtrans.evaluate import bleu, chrf, encode, forced, references_of
from projtrans.events import Averaged, Initialised, Progress, Report, Sampling, Validated
from projtrans.loss import TokenLoss, cross_entropy, r_drop
from projtrans.multihead import constrain
from projtrans.optimizer import Average, build_optimizer, clip, rate, set_rate
from projtrans.run import Run
from projtrans.settings import Config
from projtrans.tally import Counters, Sums, Window
from projtrans.telemetry import Statistics, attention_statistics
from projtrans.tokenizer import Tokenizer
from projtrans.transformer import Transformer
from projtrans.translate import Translator, layout_of

MAX_SKIPPED = 20
"""Updates in a row with a gradient that is not finite, after which training has diverged."""

WATCHED = 64
"""Sentences of the validation sample on which attention is looked at."""

WATCHED_TOKENS = 2048
"""Target pieces of them at a time, padding included: the weights of one module at a time are held whole."""


class Trainer:
    """One run being trained: the model with everything that moves."""

    averaged: Averaged | None = None  # at the end, where weights were averaged

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
        self.counters = Counters()
        first = self.batches(0)
        self.together = self.training.accumulation * group.size  # batches an update, of all processes
        self.per_epoch = math.ceil(len(first) / self.together)
        self.padding = padding(first, self.examples_of(0).lengths, self.layout)
        self.last_update = min(self.per_epoch * self.training.epochs, self.training.updates or 2**62)
        self.window = Window()
        self.stop_signal: Callable[[], int | None] = lambda: None

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
        self.group.copy(self.model.parameters())
        if self.average:
            self.group.copy(self.average.model.parameters())

    # The loop

    def train(self) -> str:
        """Train to the end; returns the reason for it in words."""
        self.clock, self.saved_at = time.perf_counter(), time.perf_counter()
        while True:
            reason = self._end()
            if reason and self.counters.validated == self.counters.update:
                if self.group.leads:
                    self._average_candidates()
                return reason
            if not reason:
                self._epoch()
            if self.group.leads:
                self._validate()
            self.counters = Counters(**json.loads(self.group.tell(json.dumps(asdict(self.counters)))))
            self.save()
            if self.group.leads:
                prune_candidates(self.run, (update for update, _ in self.counters.candidates))
            self._lap()
            self._heed_signal()

    def _epoch(self) -> None:
        self.model.train()
        batches, size = self.batches(self.counters.epoch), self.together
        for first in range(self.counters.batch, len(batches), size):
            self._update([self.batch(indices) for indices in self.group.share(batches[first : first + size])])
            self.counters.batch = min(first + size, len(batches))
            self._tick()
            if self._out_of_updates() or self._out_of_time():
                break
        if self.counters.batch == len(batches):
            self.counters.epoch += 1
            self.counters.batch = 0

    def _update(self, batches: Sequence[Batch]) -> None:
        """One step of the optimiser on the mean gradient of all positions that the batches count."""
        counters, gathered = self.counters, Sums()
        set_rate(self.optimizer, rate(self.training, counters.update + 1, self.last_update))
        self.group.seed(self.training.seed, counters.update)
        (positions,) = self.group.total([sum(self._positions(batch) for batch in batches)])
        for batch in (batch.to(self.device) for batch in batches):
            losses = self.losses(batch, *self.passes(batch))
            (torch.stack([loss.smoothed for loss in losses]).sum() / positions).backward()
            gathered.add(losses, int(batch.counted_BT.sum()), batch.counted_BT.numel())
        self.group.add_gradients(self.model.parameters())
        if self.group.size > 1:
            gathered = Sums(*self.group.total(gathered.values()))
        self.window.norm = clip(self.model.parameters(), self.training.clip_norm)
        counters.update += 1
        if bool(self.window.norm.isfinite()):
            counters.skipped = 0
            self.window.sums.join(gathered)
            self.optimizer.step()
            constrain(self.model)
            if self.average:
                self.average.update(self.model)
        else:
            self._skip()
        self.optimizer.zero_grad()

    def _positions(self, batch: Batch) -> int:
        return batch.counted_BT.numel() if self.training.padding_in_loss else int(batch.counted_BT.sum())

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's hidden states [B, T, D], bfloat16 under autocast."""
        with devices.autocast(self.device, self.training.precision):
            h_BTD = self.model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
            half = torch.is_autocast_enabled(self.device.type)
        return h_BTD.bfloat16() if half else h_BTD

    def passes(self, batch: Batch) -> list[Tensor]:
        """The hidden states, and under R-Drop those of a second pass, whose dropout differs."""
        return [self.hidden(batch) for _ in range(1 if self.training.r_drop is None else 2)]

    def losses(self, batch: Batch, *h_BTD: Tensor) -> list[TokenLoss]:
        """The loss at real pieces, and that at padding where padding is to be predicted too, of one pass or of two."""
        masks = [batch.counted_BT, ~batch.counted_BT] if self.training.padding_in_loss else [batch.counted_BT]
        output, smoothing, alpha = self.model.output, self.training.label_smoothing, self.training.r_drop
        found = []
        for mask in masks:
            common = (output.weight, output.bias, batch.target_out_BT[mask], smoothing)
            if alpha is None:
                (h_ND,) = (h[mask] for h in h_BTD)
                found.append(cross_entropy(h_ND, *common))
            else:
                h_ND, other_ND = (h[mask] for h in h_BTD)
                found.append(r_drop(h_ND, other_ND, *common, alpha))
        return found

    def _skip(self) -> None:
        self.counters.skipped += 1
        if self.counters.skipped >= MAX_SKIPPED:
            raise DivergedError(
                f"training diverged: {MAX_SKIPPED} updates in a row without a finite gradient, up to update "
                f"{self.counters.update}; lower training.learning_rate or set training.precision=fp32"
            )

    def _tick(self) -> None:
        """After every update: time, report, save, stop signal."""
        self._lap(updating=True)
        if self.counters.update % self.training.report_updates == 0:
            self._report_progress()
        self._heed_signal()
        if self.clock - self.saved_at > 60 * self.training.save_minutes:
            self.save()
        self._lap()

    def _lap(self, *, updating: bool = False) -> None:
        """Count the time since the last lap, which went into updates or into anything else."""
        begun, self.clock = self.clock, time.perf_counter()
        self.counters.seconds += self.clock - begun
        self.counters.training_seconds += self.clock - begun if updating else 0.0

    def _heed_signal(self) -> None:
        number = self.group.largest(self.stop_signal() or 0)
        if number:
            self.save()
            self.group.wait()  # who ends takes the others along
            again = f"{self.group.command} train --resume --run {shlex.quote(str(self.run.folder))}"
            raise Interrupted(f"stopped at update {self.counters.update}; go on with: {again}", number)

    def _report_progress(self) -> None:
        counters, sums = self.counters, self.window.take()
        if not (sums.pieces and self.group.leads):  # no update since the last report, or only skipped ones
            return
        counters.sums = [a + b for a, b in zip(counters.sums, sums.values(), strict=True)]
        progress = Progress(
            epoch=counters.current_epoch,
            update=counters.update,
            last_update=self.last_update,
            seconds=counters.seconds,
            loss=sums.loss,
            accuracy=sums.accuracy,
            learning_rate=rate(self.training, counters.update, self.last_update),
            gradient_norm=float(self.window.norm),
            target_tokens_per_second=sums.pieces / self.window.elapsed(counters.training_seconds),
        )
        self.run.append_metrics({"event": "train", **asdict(progress)})
        self.report(progress)

    # When to look, when to stop

    def _validate(self) -> None:
        """Score the averaged weights on the validation split; save them where they are the best so far."""
        self._report_progress()
        counters = self.counters
        counters.validated = counters.update
        translator = self._translator()
        scores = forced(translator, self.valid)
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

    def _translator(self, model: Transformer | None = None) -> Translator:
        """A translator of the weights as they stand (averaged, where an average is kept), greedy or a small beam."""
        model = (model or (self.average.model if self.average else self.model)).eval()
        decoding = replace(self.settings.decoding, beam_size=self.training.validation_beam)
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
        translator = self._translator(model)
        scores, (sample_bleu, sample_chrf) = forced(translator, self.valid), self._sample_scores(translator)
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
        if self._out_of_updates():
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
        if self.training.minutes is None:
            return False
        return bool(self.group.largest(self.group.leads and self.counters.seconds >= 60 * self.training.minutes))

    # State

    def save(self) -> None:
        """Write the complete state, and let runs/latest point here: the leader's is everyone's."""
        if not self.group.leads:
            return
        tensors = named("model", dict(self.model.named_parameters()))
        if self.average:
            tensors |= named("average", dict(self.average.model.named_parameters()))
        tensors |= named("optimizer", optimizer_tensors(self.model, self.optimizer))
        tensors |= named("random", random_tensors(self.device))
        record = {
            "counters": asdict(self.counters),
            "average_updates": self.average.updates if self.average else 0,
            "window": list(self.window.sums.values()),
            "since": self.window.since,
            "metrics_bytes": self.run.metrics_bytes,
            "tokenizer": self.tokenizer.checksum,
            "processes": self.group.size,
        }
        save_state(self.run, State(record, tensors))
        if self.run.raw_config != config.dump(self.settings):  # a resumed run's limits were changed
            self.run.keep_config(config.dump(self.settings))
        if self.counters.best is not None or not self.counters.validated:  # not a run that has come to nothing
            self.run.mark_latest()
        self.saved_at = time.perf_counter()

    def restore(self) -> None:
        """Go back to the last complete state."""
        state = load_state(self.run)
        if state.record["tokenizer"] != self.tokenizer.checksum:
            raise DataError(f"run {self.run.folder}: was trained with another tokenizer than the data folder's")
        if state.record.get("processes", 1) != self.group.size:
            trained = Group(size=state.record["processes"]).command
            raise ConfigError(f"run {self.run.folder}: begun as {trained} train; another number changes its batches")
        self.counters = Counters(**state.record["counters"])
        load_weights(self.model, below("model", state.tensors), self.run.state_file)
        if self.average:
            load_weights(self.average.model, below("average", state.tensors), self.run.state_file)
            self.average.updates = state.record["average_updates"]
        restore_optimizer(self.model, self.optimizer, below("optimizer", state.tensors))
        restore_random(self.device, below("random", state.tensors))
        self.window.sums, self.window.since = Sums(*state.record["window"]), state.record.get("since", 0.0)
        if self.group.leads:
            self.run.truncate_metrics(state.record["metrics_bytes"])
            prune_candidates(self.run, (update for update, _ in self.counters.candidates))

    def _save_best(self, model: Transformer, loss: float, sample_bleu: float) -> None:
        record = {"update": self.counters.update, "valid_loss": loss, "valid_bleu": sample_bleu, "version": __version__}
        save_model(self.run, dict(model.named_parameters()), self.tokenizer, record)

    # Data

    def batches(self, number: int) -> Batches:
        """The examples of every batch of epoch `number`."""
        training = self.training
        return epoch(
            self.examples_of(number).lengths,
            tokens=training.batch_tokens,
            sentences=training.batch_sentences,
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
