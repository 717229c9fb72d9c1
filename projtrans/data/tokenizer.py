"""Text to token ids and back, by SentencePiece.

Three kinds: `bpe` and `unigram` are one model for source and target, `word` is a model for each, as in the paper. Any
Python string can be encoded. Knows no corpus and no translation model.
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

SEPARATE = ("tokenizer.src.model", "tokenizer.tgt.model")

_SPECIAL = 4
_BYTES = 256
_TRAINING_LINES = 1_000_000  # more text changes the vocabulary little, and costs memory and minutes
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
        """`models`: a joint one, or one for the source and one for the target."""
        self.kind = kind
        self._models = models
        self._source = sentencepiece.SentencePieceProcessor(model_proto=models[0])
        self._target = sentencepiece.SentencePieceProcessor(model_proto=models[-1]) if models[1:] else self._source

    # ------------------------------------------------------------------------------------------------ making it

    @classmethod
    def train(cls, kind: str, sources: Sequence[str], targets: Sequence[str], vocab_size: int) -> "Tokenizer":
        """A tokenizer of at most `vocab_size` tokens, special ones included (with `word` for each language).

        The same text gives the same bytes. A text too small to fill the vocabulary gives a smaller one. Raises
        ConfigError when the alphabet alone does not fit.
        """
        if kind == "word":
            texts = (sources, targets)
            return cls(kind, tuple(_train_words(_training_lines(kind, lines), vocab_size) for lines in texts))
        return cls(kind, (_train_subwords(kind, _training_lines(kind, sources, targets), vocab_size),))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer that `save` left in the folder; raises RunError when it is missing or damaged."""
        names = SEPARATE if (folder / SEPARATE[0]).exists() and not (folder / JOINT[0]).exists() else JOINT
        models = tuple(_read_model(folder / name) for name in names)
        return cls("word" if len(models) > 1 else _subword_kind(models[0]), models)

    def save(self, folder: Path) -> None:
        """Write tokenizer.model, or tokenizer.src.model and tokenizer.tgt.model."""
        for name, model in zip(self.file_names, self._models, strict=True):
            with replacing(folder / name) as temporary:
                temporary.write_bytes(model)

    # -------------------------------------------------------------------------------------------------- using it

    def encode_source(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, EOS included, except with `word` (the Keras example ends only the target with it)."""
        end = [] if self.kind == "word" else [self.eos_id]
        return [[*ids, *end] for ids in self._encode(self._source, texts)]

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without BOS and EOS."""
        return self._encode(self._target, texts)

    def sample_source(self, texts: Sequence[str], dropout: float, seeds: Sequence[int]) -> list[list[int]]:
        """As `encode_source`, segmented at random: bpe omits a merge with probability `dropout`, unigram samples a
        segmentation in proportion to its probability to the power of `dropout`. A function of its arguments alone.
        """
        return [[*ids, self.eos_id] for ids in self._sample(self._source, texts, dropout, seeds)]

    def sample_target(self, texts: Sequence[str], dropout: float, seeds: Sequence[int]) -> list[list[int]]:
        """As `encode_target`, segmented at random."""
        return self._sample(self._target, texts, dropout, seeds)

    def decode_target(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each list of target ids, without special tokens; an unknown word reads [UNK].

        Single spaces, as in the normal form: byte tokens may spell line ends and tabs.
        """
        return [" ".join(str(self._target.decode(list(ids))).split()) for ids in sentences]

    def source_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens as SentencePiece writes them: ▁ begins a word."""
        return [self._source.id_to_piece(id_) for id_ in ids]

    def target_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens as SentencePiece writes them: ▁ begins a word."""
        return [self._target.id_to_piece(id_) for id_ in ids]

    def source_words(self, text: str) -> list[list[int]]:
        """For each token of `encode_source([text])` but EOS: the words of `text.split()` that it belongs to, by number.

        That is one word, except with `word`, where adjacent unknown words share one token.
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
        """For each target id: the words of `decode_target([ids])[0].split()` that it belongs to, by number."""
        starts = [place for place, token in enumerate(self.target_tokens(ids)) if place and token.startswith("▁")]
        found: list[list[int]] = []
        first = 0
        for begin, end in pairwise([0, *starts, len(ids)]):
            count = len(self.decode_target([ids[begin:end]])[0].split())
            found += [list(range(first, first + count))] * (end - begin)
            first += count
        return found

    def knows(self, character: str) -> bool:
        """Whether the source vocabulary has a token for the character, and need not spell it in bytes."""
        tokens = self.source_tokens(self._encode(self._source, [character])[0])
        return not any(token == "<unk>" or _BYTE.fullmatch(token) for token in tokens)

    @cached_property
    def joining_ids(self) -> list[int]:
        """The target ids that continue a word: their tokens do not begin with ▁."""
        tokens = self.target_tokens(range(self.target_size))
        return [id_ for id_, token in enumerate(tokens) if id_ >= _SPECIAL and not token.startswith("▁")]

    def normal_form(self, text: str) -> str:
        """The text as the tokenizer sees it: `decode_target(encode_target(text))`, except for unknown words."""
        return normal_form(text, self.kind)

    def _encode(self, model: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
        # One thread: SentencePiece's own pool would compete with torch's for the cores, and one is fast enough.
        return model.encode(_forms(self.kind, texts), num_threads=1) if texts else []

    def _sample(
        self, model: sentencepiece.SentencePieceProcessor, texts: Sequence[str], dropout: float, seeds: Sequence[int]
    ) -> list[list[int]]:
        found = []
        for text, seed in zip(_forms(self.kind, texts), seeds, strict=True):
            sentencepiece.set_random_generator_seed(seed)  # one generator serves everything in this thread
            found.append(model.encode(text, enable_sampling=True, alpha=dropout, nbest_size=-1))
        return found

    def check_sampling(self) -> None:
        """Raise ConfigError where the installed SentencePiece cannot repeat a sample: it heeds only the first seed."""
        tokens = self.target_tokens(range(_SPECIAL + _BYTES, self.target_size))
        text = " ".join(sorted(tokens, key=len)[-100:])  # long tokens have many segmentations
        first, second = self.sample_target([text, text], 0.2, [1, 1])
        if first != second:
            version = importlib.metadata.version("sentencepiece")
            raise ConfigError(
                f"training.subword_dropout: SentencePiece {version} cannot repeat its samples; install 0.2.3 or later"
            )

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def joint(self) -> bool:
        """Whether source and target share one vocabulary."""
        return len(self._models) == 1

    @property
    def source_size(self) -> int:
        """Tokens of the source vocabulary, special ones included."""
        return int(self._source.vocab_size())

    @property
    def target_size(self) -> int:
        """Tokens of the target vocabulary, special ones included."""
        return int(self._target.vocab_size())

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of the files that `save` writes."""
        return JOINT if self.joint else SEPARATE

    @property
    def checksum(self) -> str:
        """SHA-256 of the concatenated model files."""
        return hashlib.sha256(b"".join(self._models)).hexdigest()


def normal_form(text: str, kind: str) -> str:
    """NFC with single spaces; for `word` also in lower case and without punctuation.

    Lone surrogates become U+FFFD; ▁ becomes a space because SentencePiece writes spaces as ▁.
    """
    text = unicodedata.normalize("NFC", _SURROGATES.sub("\ufffd", text).replace("\u2581", " "))
    if kind == "word":  # NFC again: what stood around a removed character may now compose
        text = unicodedata.normalize("NFC", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def _forms(kind: str, texts: Iterable[str]) -> list[str]:
    return [normal_form(text, kind) for text in texts]


# --------------------------------------------------------------------------------------------------------- training


def _training_lines(kind: str, *texts: Sequence[str]) -> list[str]:
    """The lines of all texts in normal form; of over _TRAINING_LINES lines, every second, third, ... one."""
    step, first, forms = max(1, -(-sum(map(len, texts)) // _TRAINING_LINES)), 0, []
    for lines in texts:
        forms += _forms(kind, lines[first::step])
        first = (first - len(lines)) % step
    return forms


def _train_subwords(kind: str, texts: list[str], vocab_size: int) -> bytes:
    alphabet = len(set().union(*texts) - {" "}) + 1  # ▁ for the space
    # A large alphabet (Chinese, or stray symbols) leaves its rarest characters to the byte tokens.
    coverage = 1.0 if alphabet <= vocab_size // 4 else 0.9995
    try:
        return _train(texts, kind, vocab_size, byte_fallback=True, character_coverage=coverage)
    except RuntimeError as error:
        if "smaller than required_chars" not in str(error):
            raise DataError(f"tokenizer: the training text has nothing to learn {kind} tokens from") from error
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
        hard_vocab_limit=False,  # fewer tokens where the text does not yield more
        normalization_rule_name="identity",
        max_sentence_length=1 << 20,  # the default silently skips lines over 4,192 bytes
        num_threads=1,  # unigram sums in the order of its threads: their number changes the bytes
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
        raise RunError(f"{path}: {error.strerror}; the tokenizer must lie beside its model or corpus") from error
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
    """BPE scores number the merges 0, -1, -2, ...; unigram scores are log probabilities."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    whole = all(float(processor.get_score(id_)).is_integer() for id_ in range(processor.vocab_size()))
    return "bpe" if whole else "unigram"
