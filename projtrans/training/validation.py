"""Scores of the weights in training on the validation split; the best weights, and the mean of the best.

Scores by the functions of `evaluate`, so the figures in the log are those of the command. Makes no update, and knows no
metric by name.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

from projtrans import __version__
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.evaluation.evaluate import TeacherForced, forced
from projtrans.evaluation.metrics import METRICS, corpus_scores, references_of
from projtrans.inference.torch_translator import Translator
from projtrans.model.attention_statistics import Statistics, attention_statistics
from projtrans.model.batching import fixed_batches
from projtrans.model.transformer import Transformer
from projtrans.runs.build import encode, layout_of
from projtrans.runs.checkpoint import load_weights, mean_of_candidates, save_candidate, save_model
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.counters import Sums
from projtrans.training.events import Averaged, Report, Validated, Validating
from projtrans.training.state import TrainingState

WATCHED = 64
"""Sentences of the validation sample whose attention is measured."""

WATCHED_TOKENS = 2048
"""Target positions of them in a batch: the attention weights of one module are held whole."""


class Validator:
    """Scores the state's weights (averaged, where an average is kept) and saves those that are the best so far."""

    def __init__(
        self, settings: Config, run: Run, tokenizer: Tokenizer, pairs: Sequence[Pair], state: TrainingState, log: Report
    ) -> None:
        self.settings, self.training = settings, settings.training
        self.run, self.tokenizer, self.pairs = run, tokenizer, pairs
        self.state, self.log = state, log
        self.layout = layout_of(tokenizer, settings.corpus, settings.model)
        self.averaged: Averaged | None = None  # at the end, where weights were averaged

    def validate(self) -> bool:
        """Score the weights; returns whether their loss is finite."""
        counters = self.state.counters
        counters.validated = counters.update
        translator = self.translator()
        forced_scores, scores = self._score(translator)
        attention = self.attention(translator)
        score = self._criterion(forced_scores, scores)
        self._keep_candidate(translator.model, score)
        best = math.isfinite(score) and (counters.best is None or score > counters.best)
        counters.best, counters.waited = (score, 0) if best else (counters.best, counters.waited + 1)
        self.state.lap()
        if best:
            counters.best_epoch = counters.current_epoch
            self._save_best(translator.model, forced_scores.loss, scores)
        trained, counters.sums = Sums(*counters.sums), list(Sums().values())
        self.log(
            Validated(
                epoch=counters.current_epoch,
                update=counters.update,
                seconds=counters.seconds,
                training_seconds=counters.training_seconds,
                loss=forced_scores.loss,
                accuracy=forced_scores.accuracy,
                accuracy_with_padding=forced_scores.accuracy_with_padding,
                scores=scores,
                train_loss=trained.loss,
                train_accuracy=trained.accuracy,
                train_accuracy_with_padding=trained.accuracy_with_padding if self.training.padding_in_loss else None,
                best=best,
                attention=attention,
            )
        )
        return math.isfinite(forced_scores.loss)

    def average_candidates(self) -> None:
        """At the end: score the mean of the best validated weights, and keep it where it is better."""
        counters = self.state.counters
        updates = sorted(update for update, _ in counters.candidates)
        if len(updates) < 2:
            return
        model = copy.deepcopy(self.state.model)
        load_weights(model, mean_of_candidates(self.run, updates), self.run.state_file.parent)
        forced_scores, scores = self._score(self.translator(model))
        best = counters.best is not None and self._criterion(forced_scores, scores) > counters.best
        if best:
            self._save_best(model, forced_scores.loss, scores)
        self.averaged = Averaged(
            update=counters.update,
            updates=updates,
            loss=forced_scores.loss,
            accuracy=forced_scores.accuracy,
            scores=scores,
            best=best,
        )
        self.log(self.averaged)
        self.state.lap()

    def translator(self, model: Transformer | None = None) -> Translator:
        """A translator with these weights, by default the state's, as settings have the search of validation."""
        average = self.state.average
        model = (model or (average.model if average else self.state.model)).eval()
        decoding = replace(self.settings.decoding, beam_size=self.training.validation_beam, sample=False)
        return Translator(model, self.tokenizer, self.layout, decoding, self.state.device)

    def sample_scores(self, translator: Translator) -> dict[str, float]:
        """The scores of the validation sample, by the metric's name."""
        sample = self._sample()
        hypotheses = [translation.text for translation in translator.translate([pair.source for pair in sample])]
        found = corpus_scores(hypotheses, [references_of(self.tokenizer, sample)])
        return {name: score.score for name, score in found.items()}

    def attention(self, translator: Translator) -> Statistics:
        """Statistics of attention on the first sentences of the validation sample."""
        examples = encode(self.tokenizer, self.layout, self._sample()[:WATCHED], cut=True)
        batches = (batch.to(self.state.device) for _, batch in fixed_batches(examples, self.layout, WATCHED_TOKENS))
        return attention_statistics(translator.model, batches, self.layout.pad_id)

    def _score(self, translator: Translator) -> tuple[TeacherForced, dict[str, float]]:
        """Teacher-forced scores of the split; those of the sample, which are 0 where the loss is not finite."""
        found = forced(translator, self.pairs, lambda done, total: self.log(Validating(done, total)))
        finite = math.isfinite(found.loss)
        return found, self.sample_scores(translator) if finite else dict.fromkeys(METRICS, 0.0)

    def _criterion(self, forced_scores: TeacherForced, scores: dict[str, float]) -> float:
        """What the best weights have most of."""
        return -forced_scores.loss if self.training.best == "loss" else scores[self.training.best]

    def _sample(self) -> Sequence[Pair]:
        """Evenly spaced pairs of the split, the same at every validation."""
        wanted = self.training.validation_sentences
        return self.pairs[:: max(1, len(self.pairs) // wanted)][:wanted]

    def _keep_candidate(self, model: Transformer, score: float) -> None:
        """Keep weights that are among the best; those that they displace are removed when the state is saved."""
        counters, wanted = self.state.counters, self.training.average_checkpoints
        if wanted is None or not math.isfinite(score):
            return
        found = sorted([*counters.candidates, (counters.update, score)], key=lambda pair: pair[1], reverse=True)
        counters.candidates = found[:wanted]
        if (counters.update, score) in counters.candidates:
            save_candidate(self.run, counters.update, dict(model.named_parameters()))

    def _save_best(self, model: Transformer, loss: float, scores: dict[str, float]) -> None:
        valid = {f"valid_{name}": value for name, value in {"loss": loss, **scores}.items()}
        record = {"update": self.state.counters.update, **valid, "version": __version__}
        save_model(self.run, dict(model.named_parameters()), self.tokenizer, record)
