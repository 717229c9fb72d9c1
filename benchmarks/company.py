"""How the other sentences in a batch affect a translation: `python benchmarks/company.py RUN TEXT LINES`.

Translates the first LINES lines of TEXT with ONNX Runtime, greedily, in windows of several sizes and with two threads,
and compares text and score of each with those of windows of 2,048 lines and one thread.
"""

import sys
from itertools import islice
from pathlib import Path

from projtrans import OnnxTranslator
from projtrans.files import stream_lines

CASES = [(1, 2048, 1), (1, 100, 1), (1, 1, 6), (2, 2048, 1)]  # threads, lines per window, fraction of the lines


def main() -> None:
    """Translate, compare, print."""
    run, count = sys.argv[1], int(sys.argv[3])
    lines = list(islice(stream_lines(Path(sys.argv[2])), count))
    alone: list[tuple[str, float]] = []
    for threads, window, part in CASES:
        translator = OnnxTranslator.load(run, "float32", threads).with_decoding(beam_size=1)
        found = [(t.text, t.score) for t in translator.stream(lines[: count // part], window=window)]
        alone = alone or found
        texts = sum(ours[0] != theirs[0] for ours, theirs in zip(found, alone, strict=False))
        scores = [abs(ours[1] - theirs[1]) for ours, theirs in zip(found, alone, strict=False)]
        print(
            f"{threads} threads, windows of {window:,}: of {len(found):,} lines {texts} texts differ, "
            f"{sum(map(bool, scores))} scores, by {max(scores):.1e} at most"
        )


if __name__ == "__main__":
    main()
