"""Text to ids and back, by SentencePiece.

Knows three kinds: `bpe` and `unigram` are one model for both sides; `word` is one model a side, the paper's. Knows no
corpus and no translation model. Anything that is a Python string can be encoded.
"""

import hashlib
import importlib.metadata
import io
import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import sentencepiece

from projtrans.errors import ConfigError, DataError, RunError
from projtrans.files import replacing

JOINT = ("tokenizer.model",)

SIDES = ("tokenizer.src.model", "tokenizer.tgt.model")

_SPECIAL = 4

_BYTES = 256

_TRAINING_LINES = 1_000_000  # more text changes the pieces little, and costs memory and minutes

_SURROGATES = re.compile("[\ud800-\udfff]")

_BYTE = re.compile("<0x[0-9A-F]{2}>")

# What the Keras example strips: it keeps the brackets of [start] and [end], and the inverted exclamation mark.
_PUNCTUATION = str.maketrans("", "", (string.punctuation + "¿").replace("[", "").replace("]", ""))


class Tokenizer:
    """A trained tokenizer: sentences in, lists of ids out, and back."""

    pad_id: Final = 0
    unk_id: Final = 1
    bos_id: Final = 2
    eos_id: Final = 3

    def __init__(self, kind: str, models: tuple[bytes, ...]) -> None:
        """`models`: one for both sides, or source and target."""
        self.kind = kind
        self._models = models
        self._source = sentencepiece.SentencePieceProcessor(model_proto=models[0])
        self._target = sentencepiece.SentencePieceProcessor(model_proto=models[-1]) if models[1:] else self._source

    # ------------------------------------------------------------------------------------------------ making it

    @classmethod
    def train(cls, kind: str, sources: Sequence[str], targets: Sequence[str], vocab_size: int) -> "Tokenizer":
        """A tokenizer of at most `vocab_size` ids, special ones included (a side, with `word`).

        The same text gives the same bytes. A text too small to fill the vocabulary gives a smaller one. Raises
        ConfigError when the alphabet alone does not fit.
        """
        if kind == "word":
            return cls(kind, tuple(_train_words(_sample(kind, side), vocab_size) for side in (sources, targets)))
        return cls(kind, (_train_pieces(kind, _sample(kind, sources, targets), vocab_size),))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer that `save` left in the folder; raises RunError when it is missing or damaged."""
        names = SIDES if (folder / SIDES[0]).exists() and not (folder / JOINT[0]).exists() else JOINT
        models = tuple(_read_model(folder / name) for name in names)
        return cls("word" if len(models) > 1 else _subword_kind(models[0]), models)

    def save(self, folder: Path) -> None:
        """Write tokenizer.model, or tokenizer.src.model and tokenizer.tgt.model."""
        for name, model in zip(self.file_names, self._models, strict=True):
            with replacing(folder / name) as temporary:
                temporary.write_bytes(model)

    # -------------------------------------------------------------------------------------------------- using it

    def encode_source(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, closed by `eos_id` (but for `word`: the Keras example closes the target only)."""
        end = [] if self.kind == "word" else [self.eos_id]
        return [[*ids, *end] for ids in self._encode(self._source, texts)]

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, neither opened nor closed."""
        return self._encode(self._target, texts)

    def sample_source(self, texts: Sequence[str], dropout: float, seeds: Sequence[int]) -> list[list[int]]:
        """As `encode_source`, segmented at random: bpe leaves out a merge with probability `dropout`, unigram samples
        a segmentation in proportion to its probability to the power of `dropout`. A function of its arguments alone.
        """
        return [[*ids, self.eos_id] for ids in self._sample(self._source, texts, dropout, seeds)]

    def sample_target(self, texts: Sequence[str], dropout: float, seeds: Sequence[int]) -> list[list[int]]:
        """As `encode_target`, segmented at random."""
        return self._sample(self._target, texts, dropout, seeds)

    def decode_target(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each list of target ids; special ids vanish, an unknown word reads [UNK].

        Single spaces, as in the normal form: pieces of single bytes may spell line ends and tabs.
        """
        return [" ".join(str(self._target.decode(list(ids))).split()) for ids in sentences]

    def pieces_source(self, ids: Sequence[int]) -> list[str]:
        """The pieces as SentencePiece writes them: ▁ begins a word."""
        return [self._source.id_to_piece(id_) for id_ in ids]

    def pieces_target(self, ids: Sequence[int]) -> list[str]:
        """The pieces as SentencePiece writes them: ▁ begins a word."""
        return [self._target.id_to_piece(id_) for id_ in ids]

    def source_words(self, text: str) -> list[list[int]]:
        """For each piece of `encode_source([text])` but the end: which of `text.split()` it belongs to.

        That is one word, but for `word`, where neighbours that are unknown share one piece.
        """
        found: list[list[int]] = []
        before = None
        for number, ids in enumerate(self._encode(self._source, text.split())):
            for id_ in ids:
                if id_ == before == self.unk_id:
                    found[-1].append(number)
                else:
                    found.append([number])
                before = id_
        return found

    def target_words(self, ids: Sequence[int]) -> list[list[int]]:
        """For each target id: which of `decode_target([ids])[0].split()` it belongs to; none, where it has no text."""
        starts = [place for place, piece in enumerate(self.pieces_target(ids)) if place and piece.startswith("▁")]
        found: list[list[int]] = []
        first = 0
        for begin, end in pairwise([0, *starts, len(ids)]):
            count = len(self.decode_target([ids[begin:end]])[0].split())
            found += [list(range(first, first + count))] * (end - begin)
            first += count
        return found

    def knows(self, character: str) -> bool:
        """Whether the source side has a piece for the character, and need not spell it in bytes."""
        pieces = self.pieces_source(self._encode(self._source, [character])[0])
        return not any(piece == "<unk>" or _BYTE.fullmatch(piece) for piece in pieces)

    @cached_property
    def joining_ids(self) -> list[int]:
        """The target ids that continue a word: ▁ does not begin their pieces."""
        pieces = self.pieces_target(range(self.target_size))
        return [id_ for id_, piece in enumerate(pieces) if id_ >= _SPECIAL and not piece.startswith("\u2581")]

    def normal_form(self, text: str) -> str:
        """The text as the tokenizer sees it: `decode_target(encode_target(text))`, unknown words aside."""
        return normal_form(text, self.kind)

    def _encode(self, model: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
        # One thread: a pool of SentencePiece's own would fight torch's for the cores, and one is fast enough.
        return model.encode(_forms(self.kind, texts), num_threads=1) if texts else []

    def _sample(
        self, model: sentencepiece.SentencePieceProcessor, texts: Sequence[str], dropout: float, seeds: Sequence[int]
    ) -> list[list[int]]:
        found = []
        for text, seed in zip(_forms(self.kind, texts), seeds, strict=True):
            sentencepiece.set_random_generator_seed(seed)  # there is one generator for everything in this thread
            found.append(model.encode(text, enable_sampling=True, alpha=dropout, nbest_size=-1))
        return found

    def check_sampling(self) -> None:
        """Raise ConfigError where the installed SentencePiece cannot repeat a sample: its seed counts only once."""
        pieces = self.pieces_target(range(_SPECIAL + _BYTES, self.target_size))
        text = " ".join(sorted(pieces, key=len)[-100:])  # long pieces have many segmentations
        first, second = self.sample_target([text, text], 0.2, [1, 1])
        if first != second:
            version = importlib.metadata.version("sentencepiece")
            raise ConfigError(
                f"training.subword_dropout: SentencePiece {version} cannot repeat its samples; install 0.2.3 or later"
            )

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return len(self._models) == 1

    @property
    def source_size(self) -> int:
        """Ids of the source side, special ones included."""
        return int(self._source.vocab_size())

    @property
    def target_size(self) -> int:
        """Ids of the target side, special ones included."""
        return int(self._target.vocab_size())

    @property
    def file_names(self) -> tuple[str, ...]:
        """What `save` writes."""
        return JOINT if self.joint else SIDES

    @property
    def checksum(self) -> str:
        """SHA-256 of the model files, one after the other."""
        return hashlib.sha256(b"".join(self._models)).hexdigest()


def normal_form(text: str, kind: str) -> str:
    """NFC with single spaces; for `word` in lower case and without punctuation as well.

    Lone surrogates become U+FFFD, and ▁ is white space because SentencePiece writes spaces so.
    """
    text = unicodedata.normalize("NFC", _SURROGATES.sub("\ufffd", text).replace("\u2581", " "))
    if kind == "word":  # NFC again: what stood around a removed sign may now compose
        text = unicodedata.normalize("NFC", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def _forms(kind: str, texts: Iterable[str]) -> list[str]:
    return [normal_form(text, kind) for text in texts]


# --------------------------------------------------------------------------------------------------------- training


def _sample(kind: str, *sides: Sequence[str]) -> list[str]:
    """The texts of the sides one after the other in normal form; of very many, evenly chosen ones."""
    step, first, forms = max(1, -(-sum(map(len, sides)) // _TRAINING_LINES)), 0, []
    for side in sides:
        forms += _forms(kind, side[first::step])
        first = (first - len(side)) % step
    return forms


def _train_pieces(kind: str, texts: list[str], vocab_size: int) -> bytes:
    alphabet = len(set().union(*texts) - {" "}) + 1  # ▁ for the space
    # A large alphabet (Chinese, or stray signs) leaves its rarest characters to the byte pieces.
    coverage = 1.0 if alphabet <= vocab_size // 4 else 0.9995
    try:
        return _train(texts, kind, vocab_size, byte_fallback=True, character_coverage=coverage)
    except RuntimeError as error:
        if "smaller than required_chars" not in str(error):
            raise DataError(f"tokenizer: the training text has nothing to learn {kind} pieces from") from error
        least = _SPECIAL + _BYTES + alphabet
        reason = f"the text has {alphabet:,} different characters"
        raise ConfigError(f"vocab_size: {vocab_size} is too small, {reason}; {least:,} is enough") from error


def _train_words(texts: list[str], vocab_size: int) -> bytes:
    try:
        return _train(texts, "word", vocab_size, character_coverage=1.0, unk_surface=" [UNK]")
    except RuntimeError as error:
        raise DataError("tokenizer: the training text has no words once punctuation is removed") from error


def _train(texts: list[str], kind: str, vocab_size: int, **options: Any) -> bytes:
    """A SentencePiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=kind,
        vocab_size=vocab_size,
        hard_vocab_limit=False,  # fewer pieces where the text does not yield more
        normalization_rule_name="identity",
        max_sentence_length=1 << 20,  # the default silently skips lines over 4,192 bytes
        num_threads=1,  # unigram sums in the order of its threads: another number, other bytes
        pad_id=Tokenizer.pad_id,
        unk_id=Tokenizer.unk_id,
        bos_id=Tokenizer.bos_id,
        eos_id=Tokenizer.eos_id,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


# ---------------------------------------------------------------------------------------------------------- loading


def _read_model(path: Path) -> bytes:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; the tokenizer belongs beside its model or corpus") from error
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"empty")
    except RuntimeError as error:
        raise RunError(f"{path}: not a SentencePiece model, or a truncated one; copy or prepare it again") from error
    found = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    wanted = (Tokenizer.pad_id, Tokenizer.unk_id, Tokenizer.bos_id, Tokenizer.eos_id)
    if found != wanted:
        raise RunError(f"{path}: its special ids (pad, unk, bos, eos) are {found}, not {wanted}: made by another tool")
    return model


def _subword_kind(model: bytes) -> str:
    """BPE numbers its merges 0, -1, -2, ...; unigram scores are log probabilities."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    whole = all(float(processor.get_score(id_)).is_integer() for id_ in range(processor.vocab_size()))
    return "bpe" if whole else "unigram"
