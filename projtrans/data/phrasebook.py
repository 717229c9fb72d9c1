"""The bundled corpus: about twenty thousand everyday English sentences with their Spanish translations.

Reads phrasebook.tsv.gz, which lies beside this file. Knows nothing of the grammar that generated it (tools/phrasebook).
"""

from pathlib import Path
from typing import NamedTuple

from projtrans.files import stream_lines

FILE = Path(__file__).with_name("phrasebook.tsv.gz")
"""One line per pair: English, Spanish, group, separated by tabs."""


class Phrase(NamedTuple):
    """An English sentence and one of its Spanish translations."""

    source: str
    target: str
    group: str  # "apple+eat": the content words combined; a formula without such a pair is a group of its own


def phrases() -> list[Phrase]:
    """All pairs, always in the same order."""
    return [Phrase(*line.split("\t")) for line in stream_lines(FILE)]
