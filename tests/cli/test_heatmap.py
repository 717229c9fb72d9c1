"""Maps of weights as text: every weight can be read back from its shade, and no line is too wide."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from projtrans.cli.heatmap import ASCII, BLOCKS, LONGEST_LABEL, STEPS, heatmap

LABELS = st.text(st.one_of(st.sampled_from("▁abé漢"), st.characters()), min_size=1, max_size=20)


@given(data=st.data(), blocks=st.booleans(), width=st.integers(50, 120))
def test_every_weight_can_be_read_back(data: st.DataObject, blocks: bool, width: int) -> None:
    """From rows named a, b, ... and columns named by one letter, whatever the width breaks."""
    rows, columns = data.draw(st.integers(1, 5), "rows"), data.draw(st.integers(1, 60), "columns")
    weights = [data.draw(st.lists(st.floats(0, 1), min_size=columns, max_size=columns)) for _ in range(rows)]
    lines = heatmap(weights, "abcde"[:rows], ["x"] * columns, width=width, blocks=blocks)
    shades = " " + (BLOCKS if blocks else ASCII)
    for name, row in zip("abcde", weights, strict=False):
        shown = [line for line in lines if line.startswith(f"{name} ")]
        end = f" x{' ' * (LONGEST_LABEL - 1)} {max(row):.2f}"
        assert all(line.endswith(end) for line in shown)
        read = "".join(line.removesuffix(end)[2:] for line in shown)
        assert read == "".join(2 * shades[sum(weight >= step for step in STEPS)] for weight in row)


@given(data=st.data(), blocks=st.booleans(), width=st.integers(50, 120))
def test_no_line_is_too_wide_whatever_the_tokens_are(data: st.DataObject, blocks: bool, width: int) -> None:
    rows, columns = data.draw(st.lists(LABELS, max_size=5)), data.draw(st.lists(LABELS, min_size=1, max_size=40))
    lines = heatmap([[0.5] * len(columns) for _ in rows], rows, columns, width=width, blocks=blocks)
    for line in lines:
        assert sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line) <= width
        assert all(sign.isprintable() for sign in line)


def test_a_small_map_by_hand() -> None:
    lines = heatmap(
        [[0.9, 0.1, 0.0], [0.3, 0.5, 0.2]], ["▁la", "▁casa"], ["▁the", "▁house", "."], width=60, blocks=True
    )
    assert lines == [
        "        ▁",
        "        h",
        "      ▁ o",
        "      t u",
        "      h s",
        "      e e .",
        "▁la   ██··   ▁the         0.90",
        "▁casa ░░▒▒░░ ▁house       0.50",
        "from  · 0.05  ░ 0.2  ▒ 0.4  ▓ 0.6  █ 0.8",
    ]
    plain = heatmap([[0.9, 0.1, 0.0]], ["▁la"], ["▁the", "▁house", "."], width=60, blocks=False)
    assert plain[-2:] == ["_la @@..   _the         0.90", "from  . 0.05  : 0.2  + 0.4  # 0.6  @ 0.8"]
    assert "\n".join(plain).isascii()


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert "\x1b" not in "".join(heatmap([[1.0]], ["\x1b[2J"], ["\x1b"], width=60, blocks=True))
