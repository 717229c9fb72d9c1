"""How lines of several sentences are translated: `python benchmarks/long_lines.py RUN DATA [--sentences 240]`.

Random sentences of the test split are joined to lines of 1, 2, 4 and 24. They are translated as they are, with
`--sentences`, and with the end cut off at the model's maximum; BLEU is that of the lines.
"""

import argparse
import random
from pathlib import Path

import sacrebleu
import torch

from projtrans.data.data_folder import read_split
from projtrans.inference.torch_translator import Translator


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sentences", type=int, default=240)
    parser.add_argument("--beam-size", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    translator = Translator.load(given.run, "cpu").with_decoding(beam_size=given.beam_size)
    tokenizer, longest = translator.tokenizer, translator.longest_source
    pairs = read_split(given.data, "test")
    chosen = [pairs[i] for i in random.Random(1).sample(range(len(pairs)), given.sentences)]
    print("sentences per line, tokens per line: as it is, --sentences, cut off", flush=True)
    for count in (1, 2, 4, 24):
        lines = [chosen[first : first + count] for first in range(0, len(chosen), count)]
        sources, references = (
            [" ".join(getattr(pair, side) for pair in line) for line in lines] for side in ("source", "target")
        )
        ids = [sentence[: longest - 1] for sentence in tokenizer.encode_source(sources)]
        cut = [
            text if len(kept) < longest - 1 else tokenizer.decode_target([kept])[0]
            for text, kept in zip(sources, ids, strict=True)
        ]
        tokens = sum(map(len, tokenizer.encode_source(sources))) / len(lines)
        scores = [
            sacrebleu.corpus_bleu([found.text for found in decoder.translate(texts)], [references]).score
            for decoder, texts in (
                (translator, sources),
                (translator.with_options(sentences=True), sources),
                (translator, cut),
            )
        ]
        print(f"{count}, {tokens:.0f}: {', '.join(f'{score:.1f}' for score in scores)}", flush=True)


if __name__ == "__main__":
    main()
