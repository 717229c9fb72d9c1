"""Writes the bundled corpus: `python -m tools.phrasebook`, in the top folder of a checkout; a test holds it fresh."""

import gzip

from projtrans.data.phrasebook import FILE
from projtrans.files import replacing
from tools.phrasebook.generator import generate

if __name__ == "__main__":
    text = "".join(f"{phrase.source}\t{phrase.target}\t{phrase.group}\n" for phrase in generate())
    with replacing(FILE) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))  # no time stamp: the same text, the same bytes
