"""The batches of every epoch, and how many updates there are: functions of settings, seed, epoch and halvings.

Knows ids and counters only: no model, and nothing about how an update is made.
"""

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from projtrans.data.corpus import Pair
from projtrans.data.encoded_corpus import sample
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError
from projtrans.model.batching import Batch, Batches, Examples, epoch, heaviest, padding, sizes
from projtrans.runs.build import encode, layout_of
from projtrans.runs.settings import Config, TrainingConfig
from projtrans.training.counters import Counters
from projtrans.training.events import Report, Sampling


class BatchSize(NamedTuple):
    """How large batches are, and how many make an update."""

    tokens: int
    sentences: int | None
    accumulation: int

    @classmethod
    def of(cls, training: TrainingConfig, halvings: int) -> "BatchSize":
        """The size after so many halvings: batches are smaller, and an update takes so many more of them."""
        sentences = training.batch_sentences and max(1, training.batch_sentences >> halvings)
        return cls(max(1, training.batch_tokens >> halvings), sentences, training.accumulation << halvings)


class EpochPlan:
    """Which batches every epoch has, and where training ends.

    per_epoch: updates of an epoch; together: batches of an update, of all processes; last_update: the last one, unless
    minutes or patience end training before; padding: its shares among source and target positions; sizes_B3: sentence
    pairs, source and target positions of every batch.
    Raises DataError where no training pair is short enough.
    """

    def __init__(
        self, settings: Config, tokenizer: Tokenizer, pairs: Sequence[Pair], report: Report, processes: int = 1
    ) -> None:
        self.settings, self.training = settings, settings.training
        self.tokenizer, self.pairs = tokenizer, pairs
        self.report, self.processes = report, processes
        self.layout = layout_of(tokenizer, settings.corpus, settings.model)
        self.examples = encode(tokenizer, self.layout, pairs, cut=settings.corpus.overlong == "cut")
        self.sampled: tuple[int, Examples] | None = None  # the last epoch that was segmented with subword dropout
        self.left_out = len(pairs) - len(self.examples)
        if not self.examples:
            raise DataError(
                f"corpus.max_length: {settings.corpus.max_length} leaves none of {len(pairs)} training pairs; raise it"
            )
        if self.training.subword_dropout:
            tokenizer.check_sampling()
        self.arrange(Counters())

    def arrange(self, counters: Counters) -> None:
        """Plan for batches that were halved so often, from the update and epoch where they began."""
        self.size = BatchSize.of(self.training, counters.halvings)
        self.together = self.size.accumulation * self.processes
        first, lengths_N2 = self.batches(0), self.examples_of(0).lengths
        self.per_epoch = math.ceil(len(first) / self.together)
        self.padding, self.sizes_B3 = padding(first, lengths_N2, self.layout), sizes(first, lengths_N2, self.layout)
        last = counters.planned_update + self.per_epoch * (self.training.epochs - counters.planned_epoch)
        self.last_update = min(last, self.training.updates or 2**62)

    @property
    def fingerprint(self) -> int:
        """32 bits of the lengths in order, which tell other training pairs apart."""
        return zlib.crc32(self.examples.lengths.astype(np.int32).tobytes())

    def batches(self, number: int) -> Batches:
        """The examples of every batch of epoch `number`, counted from 0."""
        training = self.training
        return epoch(
            self.examples_of(number).lengths,
            tokens=self.size.tokens,
            sentences=self.size.sentences,
            by_length=training.by_length,
            seed=training.seed,
            number=number,
        )

    def batch(self, number: int, indices: Sequence[int]) -> Batch:
        """These examples of epoch `number` as one padded batch."""
        examples = self.examples_of(number)
        return self.layout.batch([examples[i] for i in indices])

    def heaviest(self, number: int) -> Batch:
        """The batch of epoch `number` that takes the most memory."""
        model, lengths_N2 = self.settings.model, self.examples_of(number).lengths
        if not self.layout.mask_padding:
            lengths_N2 = np.full_like(lengths_N2, self.layout.max_length)
        by_length, batches = self.training.by_length, self.batches(number)
        found = heaviest(batches, lengths_N2, by_length=by_length, width=model.width, heads=model.heads)
        return self.batch(number, found)

    def examples_of(self, number: int) -> Examples:
        """The encoded training pairs, with subword dropout as epoch `number` segments them."""
        training, total = self.training, len(self.pairs)
        if not training.subword_dropout:
            return self.examples
        if self.sampled is None or self.sampled[0] != number:
            ids = sample(
                self.tokenizer,
                self.pairs,
                training.subword_dropout,
                training.seed,
                number,
                lambda done: self.report(Sampling(done, total)),
            )
            self.sampled = number, Examples(self.layout, *ids, cut=self.settings.corpus.overlong == "cut")
        return self.sampled[1]
