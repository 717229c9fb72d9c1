"""What a tokenizer cannot spell goes around the model: removed from the source, and put back into the translation.

Emoji, other scripts, addresses and long numbers make a model that never saw them lose the rest of the sentence too.
Knows strings and alignments; the caller says which characters are known.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from projtrans.inference.translation import Candidate, Translation

VERBATIM = re.compile(r"(https?://|www\.)\S+|[^\s@]+@[^\s@]+\.\w+|\+?\d{7,}")
"""Addresses, and numbers that identify something rather than count it."""

STOPS = ".!?…"
OPENING, CLOSING = "\"'“‘«(¿¡[", "\"'”’»).,;:!?…]"


@dataclass(frozen=True)
class Copy:
    """A word to be copied."""

    text: str  # with the punctuation that follows it
    after: int  # how many words that stay precede it
    number: int  # its index in the whole source
    closes: bool  # it ended a sentence, and the word before it took over the full stop


@dataclass(frozen=True)
class Reduced:
    """A source without the words to be copied."""

    text: str
    numbers: list[int]  # the indices of its words in the whole source
    copies: list[Copy]


def leave_out(text: str, known: Callable[[str], bool]) -> Reduced:
    """The source without addresses, long numbers and words that consist of unknown characters alone.

    known: whether a character is. A full stop after such a word goes to the word before it. A source without any such
    word is left unchanged.
    """
    words: list[str] = []
    numbers: list[int] = []
    copies: list[Copy] = []
    for number, word in enumerate(text.split()):
        core = word.lstrip(OPENING).rstrip(CLOSING)
        if not core or not (VERBATIM.fullmatch(core) or not any(map(known, core))):
            words.append(word)
            numbers.append(number)
            continue
        stop = "".join(sign for sign in word[len(word.rstrip(CLOSING)) :] if sign in STOPS)
        closes = bool(stop and words and words[-1][-1] not in CLOSING)
        copies.append(Copy(word, len(words), number, closes))
        if closes:
            words[-1] += stop
    return Reduced(" ".join(words), numbers, copies) if copies else Reduced(text, numbers, [])


def restore(text: str, reduced: Reduced, found: Translation, *, aligned: bool) -> Translation:
    """The translation of a text from that of the reduced text, which becomes its part; aligned: keep alignments."""
    hypotheses, parts = found.hypotheses, found.parts
    if reduced.copies:
        hypotheses, parts = [put_back(reduced, hypothesis) for hypothesis in hypotheses], parts or [found]
    if not aligned:
        hypotheses = [replace(hypothesis, alignment=None) for hypothesis in hypotheses]
        parts = [replace(part, hypotheses=[replace(h, alignment=None) for h in part.hypotheses]) for part in parts]
    return Translation(text, hypotheses, parts=parts)


def put_back(reduced: Reduced, found: Candidate) -> Candidate:
    """The hypothesis of a reduced source with the copied words, and an alignment that counts the whole source's words.

    A word follows the translation of the words up to the one before it; at the end of the source it stays at the end.
    """
    origins = {j: i for i, j in found.alignment or []}
    words = [(word, origins.get(j)) for j, word in enumerate(found.translation.split())]
    copies: dict[int, list[Copy]] = {}
    for copy in reduced.copies:
        copies.setdefault(_place(copy, len(reduced.numbers), origins, len(words)), []).append(copy)
    whole: list[tuple[str, int | None]] = [(copy.text, copy.number) for copy in copies.get(0, [])]
    for place, (word, origin) in enumerate(words, 1):
        closed = any(copy.closes for copy in copies.get(place, []))
        whole.append((word.rstrip(STOPS) or word if closed else word, _number(reduced, origin)))
        whole += [(copy.text, copy.number) for copy in copies.get(place, [])]
    return replace(
        found,
        translation=" ".join(word for word, _ in whole),
        alignment=[(origin, j) for j, (_, origin) in enumerate(whole) if origin is not None],
    )


def _place(copy: Copy, kept: int, origins: dict[int, int], count: int) -> int:
    """How many words of the translation precede it."""
    if copy.after == kept:
        return count
    nearest = max((i for i in origins.values() if i < copy.after), default=None)
    return max((j + 1 for j, i in origins.items() if i == nearest), default=0)


def _number(reduced: Reduced, word: int | None) -> int | None:
    return None if word is None else reduced.numbers[word]
