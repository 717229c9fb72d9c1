"""Pairs of ids and the layout that makes batches of them: what tests of batches on any device share."""

from collections.abc import Sequence

from hypothesis import strategies as st

from projtrans.model.batching import Examples, Layout
from projtrans.sequences import Ragged

PAD, BOS, EOS = 0, 1, 2
ids = st.lists(st.integers(3, 50), max_size=9)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=8)


def layout(max_length: int = 12, *, mask_padding: bool = True) -> Layout:
    return Layout(pad_id=PAD, bos_id=BOS, eos_id=EOS, max_length=max_length, mask_padding=mask_padding)


def examples_of(lay: Layout, texts: Sequence[tuple[list[int], list[int]]], *, cut: bool = True) -> Examples:
    sources, targets = (Ragged.of([text[side] for text in texts]) for side in (0, 1))
    return Examples(lay, sources, targets, cut=cut)
