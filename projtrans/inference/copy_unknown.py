"""What a tokenizer cannot spell goes around the model: left out of the source, and put back into the translation.

Emoji, another script, addresses and long numbers make a model that never saw them lose the rest of the sentence too.
Knows strings and alignments; which characters are known, the caller says.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from projtrans.inference.translator import Candidate

VERBATIM = re.compile(r"(https?://|www\.)\S+|[^\s@]+@[^\s@]+\.\w+|\+?\d{7,}")
"""Addresses, and numbers that count nothing."""

STOPS = ".!?…"

OPENING, CLOSING = "\"'“‘«(¿¡[", "\"'”’»).,;:!?…]"


@dataclass(frozen=True)
class Copy:
    """A word that is to be copied."""

    text: str  # with the punctuation that follows it
    after: int  # how many words that stay stand before it
    number: int  # its own in the whole source
    closes: bool  # it ended a sentence, and the word before it got the stop


@dataclass(frozen=True)
class Reduced:
    """A source without the words that are to be copied."""

    text: str
    numbers: list[int]  # of its words, in the whole source
    copies: list[Copy]


def leave_out(text: str, known: Callable[[str], bool]) -> Reduced:
    """The source without words of unknown characters alone, addresses and long numbers.

    known: of a character. The stop behind such a word goes to the word before it. A source without any is left as it
    is.
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


def put_back(reduced: Reduced, found: Candidate) -> Candidate:
    """The hypothesis of a reduced source with the copied words, and its alignment with that of the whole source.

    A word stands after what the words up to the one before it became, and at the end where it stood at the end.
    """
    origins = {j: i for i, j in found.alignment or []}
    words = [(word, origins.get(j)) for j, word in enumerate(found.translation.split())]
    at: dict[int, list[Copy]] = {}
    for copy in reduced.copies:
        at.setdefault(_place(copy, len(reduced.numbers), origins, len(words)), []).append(copy)
    whole: list[tuple[str, int | None]] = []
    for place in range(len(words) + 1):
        if place:
            word, origin = words[place - 1]
            closed = any(copy.closes for copy in at.get(place, []))
            whole.append((word.rstrip(STOPS) or word if closed else word, _number(reduced, origin)))
        whole += [(copy.text, copy.number) for copy in at.get(place, [])]
    return replace(
        found,
        translation=" ".join(word for word, _ in whole),
        alignment=[(origin, j) for j, (_, origin) in enumerate(whole) if origin is not None],
    )


def _place(copy: Copy, kept: int, origins: dict[int, int], count: int) -> int:
    """How many words of the translation stand before it."""
    if copy.after == kept:
        return count
    nearest = max((i for i in origins.values() if i < copy.after), default=None)
    return max((j + 1 for j, i in origins.items() if i == nearest), default=0)


def _number(reduced: Reduced, word: int | None) -> int | None:
    return None if word is None else reduced.numbers[word]
