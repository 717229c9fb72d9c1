"""Splits a text that is too long for a model where a reader would pause.

It is cut at the ends of sentences; a sentence that is too long at ; and :, then at commas, then at white space; a word
only where it is too long by itself. Knows strings alone: the caller says what is too long.
"""

import re
from collections.abc import Callable, Iterator

CLOSERS = "[\"'”’»)\\]」』]*"
SENTENCE_END = re.compile(rf"[.!?…]+{CLOSERS}\s+|[。！？]+{CLOSERS}\s*")
PAUSES = [
    re.compile(rf"[;:]{CLOSERS}\s+|[；：]{CLOSERS}\s*"),
    re.compile(rf",{CLOSERS}\s+|[，、]{CLOSERS}\s*"),
    re.compile(r"\s+"),
]
ABBREVIATION = re.compile(r"\b(mr|mrs|ms|dr|dra|prof|st|sr|sra|srta|ud|uds|vs|pp|[^\W\d_])$", re.IGNORECASE)
LONGEST_ABBREVIATION = 8  # characters, with the one before it

LONGEST_WORD = 4096
"""Characters kept of a word: no language has longer ones, and splitting them would take hours."""

_ENDLESS = re.compile(rf"(\S{{{LONGEST_WORD}}})\S+")


def shortened(text: str) -> str:
    """The text with its words truncated to LONGEST_WORD characters."""
    return _ENDLESS.sub(r"\1", text)


def split(text: str, fits: Callable[[str], bool], *, every_sentence: bool = False) -> list[str]:
    """The text in parts that fit; concatenated, they are the text.

    A text that fits is its own only part. A single character that does not fit stays as it is. No part is blank unless
    the text is. every_sentence: a text that fits is cut at the ends of its sentences too.
    """
    if not every_sentence and fits(text):
        return [text]
    sentences = _cut(text, _sentence_ends(text))
    return [part for sentence in sentences for part in _halves(sentence, fits)]


def breaks_word(left: str, right: str) -> bool:
    """Whether the border between two parts lies inside a word."""
    border = re.compile(rf"(\s|[。！？；：，、]{CLOSERS})$")
    return not (border.search(left[-10:]) or right[:1].isspace())


def _halves(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """Cut at the strongest pause, of several at the one nearest to the middle, until the parts fit."""
    begin, end = _spoken(text)
    if end - begin < 2 or fits(text):
        yield text
        return
    places = next(filter(None, (_inside(text, pause) for pause in PAUSES)), [(begin + end) // 2])
    for part in _cut(text, [min(places, key=lambda place: abs(2 * place - len(text)))]):
        yield from _halves(part, fits)


def _spoken(text: str) -> tuple[int, int]:
    """Where the leading white space ends, and where the trailing white space begins."""
    return len(text) - len(text.lstrip()), len(text.rstrip())


def _inside(text: str, pause: re.Pattern[str]) -> list[int]:
    """Where parts could begin, with text on both sides of the cut."""
    begin, end = _spoken(text)
    return [match.end() for match in pause.finditer(text) if begin < match.start() and match.end() < end]


def _sentence_ends(text: str) -> list[int]:
    return [place for place in _inside(text, SENTENCE_END) if _ends_sentence(text, place)]


def _ends_sentence(text: str, place: int) -> bool:
    """Whether the stop before the place ends a sentence: not an abbreviation, an initial, nor before a small letter."""
    before = text[max(0, place - 40) : place].rstrip()
    word = before.rstrip(".")
    if text[place].islower():
        return False
    return not (before.endswith(".") and ABBREVIATION.search(word[-LONGEST_ABBREVIATION:]))


def _cut(text: str, places: list[int]) -> list[str]:
    return [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
