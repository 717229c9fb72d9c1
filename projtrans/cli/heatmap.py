"""A matrix of attention weights as text: one row per query, one column per key, shades for weights.

Keys are written from top to bottom above their columns; the key with the largest weight stands at the right of a row.
Knows numbers and labels only, neither models nor terminals: the caller says how wide a line may be, and whether it may
hold block characters.
"""

import unicodedata
from collections.abc import Sequence

STEPS = (0.05, 0.2, 0.4, 0.6, 0.8)
"""Weights below the first are blank; every further step has a shade."""

BLOCKS, ASCII = "·░▒▓█", ".:+#@"
LONGEST_LABEL = 12


def heatmap(
    weights: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], *, width: int, blocks: bool
) -> list[str]:
    """The lines, none wider than `width` (at least 50); columns that do not fit follow further down."""
    rows, columns = [_label(row, blocks) for row in rows], [_label(column, blocks) for column in columns]
    best = [max(range(len(row)), key=row.__getitem__) for row in weights]
    ends = [f"{_padded(columns[j], LONGEST_LABEL)} {row[j]:.2f}" for row, j in zip(weights, best, strict=True)]
    first = max(map(_cells, rows), default=0)
    most = max(1, (width - first - len("  ") - LONGEST_LABEL - len(" 1.00")) // 2)
    lines = []
    for begin in range(0, len(columns), most):
        shown = slice(begin, begin + most)
        lines += [" " * (first + 1) + line for line in _header(columns[shown])]
        for row, values, end in zip(rows, weights, ends, strict=True):
            lines.append(f"{_padded(row, first)} {''.join(2 * _shade(w, blocks) for w in values[shown])} {end}")
    return [line.rstrip() for line in lines] + [legend(blocks)]


def legend(blocks: bool) -> str:
    """The line that explains the shades."""
    return "from  " + "  ".join(
        f"{shade} {step:g}" for shade, step in zip(BLOCKS if blocks else ASCII, STEPS, strict=True)
    )


def _shade(weight: float, blocks: bool) -> str:
    level = sum(weight >= step for step in STEPS)
    return (" " + (BLOCKS if blocks else ASCII))[level]


def _header(labels: Sequence[str]) -> list[str]:
    """The labels from top to bottom, two columns each, ending above their cells."""
    height = max(map(len, labels))
    return [
        "".join(_padded(label[line], 2) for label in (label.rjust(height) for label in labels))
        for line in range(height)
    ]


def _label(token: str, blocks: bool) -> str:
    """A printable token: no control characters, not too long, without ▁ where that cannot be shown."""
    shown = "".join(sign if sign.isprintable() and not unicodedata.combining(sign) else "?" for sign in token)
    shown = shown if blocks else shown.replace("▁", "_")
    while _cells(shown) > LONGEST_LABEL:
        shown = shown[:-2] + "~"
    return shown


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """The number of terminal columns that the text takes."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)
