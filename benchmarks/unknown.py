"""How an emoji affects a translation: `python benchmarks/unknown.py RUN DATA [--sentences 200] [--beam-size 2]`.

One is inserted at the beginning, in the middle or at the end of sentences of the test split. Prints BLEU of the
translations without their emoji, and how many of them kept it.
"""

import argparse
import random
from pathlib import Path

import sacrebleu
import torch

from projtrans.data.data_folder import read_split
from projtrans.inference.torch_translator import Translator

EMOJI = "😀"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--beam-size", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    translator = Translator.load(given.run, "cpu").with_decoding(beam_size=given.beam_size)
    pairs, generator = read_split(given.data, "test"), random.Random(2)
    chosen = [pairs[i] for i in generator.sample(range(len(pairs)), given.sentences)]
    references = [pair.target for pair in chosen]
    for place in ("nowhere", "beginning", "middle", "end"):
        texts = []
        for pair in chosen:
            words = pair.source.split()
            at = {"beginning": 0, "middle": (len(words) + 1) // 2, "end": len(words)}.get(place)
            texts.append(" ".join(words if at is None else [*words[:at], EMOJI, *words[at:]]))
        for name, decoder in (("as it is", translator), ("--copy-unknown", translator.with_options(copy_unknown=True))):
            found = [translation.text for translation in decoder.translate(texts)]
            bare = [" ".join(text.replace(EMOJI, " ").split()) for text in found]
            score = sacrebleu.corpus_bleu(bare, [references]).score
            print(f"{place:10} {name:15} BLEU {score:.1f}, {sum(EMOJI in text for text in found)} emoji", flush=True)


if __name__ == "__main__":
    main()
