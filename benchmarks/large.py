"""A large corpus from a small one: `python benchmarks/large.py pairs.tsv 5000000 > large.tsv`.

Repeats the pairs, one in twenty as it stands and the others with two words of the same side put in at random places, so
that sentences, hashes and lengths are as many and as various as in a corpus of that size. The same arguments give the
same bytes. For measurements only: the noise translates nothing.
"""

import random
import sys
from pathlib import Path

from projtrans.data.corpora import read_table
from projtrans.data.corpus import collect

VERBATIM = 0.05
INSERTED = 2


def noisy(text: str, words: list[str], generator: random.Random) -> str:
    """The text with words put in."""
    found = text.split()
    for word in generator.choices(words, k=INSERTED):
        found.insert(generator.randrange(len(found) + 1), word)
    return " ".join(found)


def main() -> None:
    """Write the corpus to standard output."""
    table, count = Path(sys.argv[1]), int(sys.argv[2])
    pairs = list(collect(read_table(table), str(table)))
    words = [sorted({word for pair in pairs for word in pair[side].split()}) for side in (0, 1)]
    generator = random.Random(1)
    for number in range(count):
        pair = pairs[number % len(pairs)]
        same = generator.random() < VERBATIM
        sides = pair if same else [noisy(text, own, generator) for text, own in zip(pair, words, strict=True)]
        sys.stdout.write("\t".join(sides) + "\n")


if __name__ == "__main__":
    main()
