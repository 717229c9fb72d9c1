"""A small corpus whose sentences all differ, for the tests of data."""

import gzip
from pathlib import Path

from projtrans import files
from projtrans.data.corpus import CorpusConfig, Pair

CONFIG = CorpusConfig(vocab_size=400)

LETTERS = "abcdefghij"


def words(number: int) -> str:
    """Three words that spell a number."""
    return " ".join(LETTERS[int(digit)] * 3 for digit in f"{number:03}")


PAIRS = [Pair(f"See {words(number)}.", f"Ve {words(number)} ¿no?") for number in range(200)]


def ready_made(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Ready-made splits that leak, repeat themselves and have a blank pair."""
    content = {"train": [*PAIRS[:40], PAIRS[0], Pair("", "x")], "valid": PAIRS[40:45], "test": PAIRS[39:49]}
    for name, pairs in content.items():
        files.write_lines(folder / f"{name}.en", [pair.source for pair in pairs])
        (folder / f"{name}.es.gz").write_bytes(gzip.compress("".join(f"{pair.target}\n" for pair in pairs).encode()))
    return {name: (folder / f"{name}.en", folder / f"{name}.es.gz") for name in content}
