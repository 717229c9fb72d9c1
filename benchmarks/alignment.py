"""How often cross-attention points at the right word: `python benchmarks/alignment.py RUN DATA [--pairs 2000]`.

The gold alignments are pairs of words that predict each other in the training pairs: Dice's coefficient
2 c(s, t) / (c(s) + c(t)) is at least 0.7 over pairs of sentences. They are looked up in the test split, where each
occurs once in its sentence, and the references are forced on the model.
"""

import argparse
import re
from collections import Counter
from itertools import product
from pathlib import Path

import torch

from projtrans.data.data_folder import read_split
from projtrans.inference.torch_translator import Translator
from projtrans.model.alignment import cross_attention, summed_to_words

DICE, SEEN = 0.7, 5


def words(text: str) -> list[str]:
    """Words without surrounding punctuation, in lower case."""
    return [re.sub(r"^\W+|\W+$", "", word.lower()) for word in text.split()]


def lexicon(pairs: list) -> set[tuple[str, str]]:
    """Pairs of words that predict each other."""
    sources, targets, both = Counter(), Counter(), Counter()
    for pair in pairs:
        left, right = set(words(pair.source)), set(words(pair.target))
        sources.update(left)
        targets.update(right)
        both.update(product(left, right))
    return {
        (s, t)
        for (s, t), count in both.items()
        if s and t and count >= SEEN and 2 * count / (sources[s] + targets[t]) >= DICE
    }


def anchors(pair: object, known: set[tuple[str, str]]) -> list[tuple[int, int]]:
    """Positions of the known pairs in a pair of sentences, where they are unambiguous."""
    left, right = words(pair.source), words(pair.target)
    found = [(i, j) for (i, s), (j, t) in product(enumerate(left), enumerate(right)) if (s, t) in known]
    once = Counter(i for i, _ in found), Counter(j for _, j in found)
    return [(i, j) for i, j in found if once[0][i] == once[1][j] == left.count(left[i]) == right.count(right[j]) == 1]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    translator = Translator.load(given.run, "cpu")
    tokenizer = translator.tokenizer
    known = lexicon(read_split(given.data, "train"))
    right, together = Counter(), 0
    for pair in read_split(given.data, "test")[: given.pairs]:
        if not (wanted := anchors(pair, known)):
            continue
        (source,), (target,) = tokenizer.encode_source([pair.source]), tokenizer.encode_target([pair.target])
        (weights_LHTS,) = cross_attention(translator.model, translator.layout, [source], [[*target, tokenizer.eos_id]])
        layers = len(weights_LHTS)
        maps = {f"layer {n + 1}": w.mean(0) for n, w in enumerate(weights_LHTS)}
        maps |= {f"layer {n + 1} head {h + 1}": w for n, ws in enumerate(weights_LHTS) for h, w in enumerate(ws)}
        maps["all layers"] = weights_LHTS.mean((0, 1))
        if layers > 1:
            maps["last two layers"] = weights_LHTS[-2:].mean((0, 1))
        groups = tokenizer.source_words(pair.source), tokenizer.target_words(target)
        together += len(wanted)
        for name, weights_TS in maps.items():
            for row, shown in (("predicted", weights_TS[:-1]), ("read", weights_TS[1:])):
                found = summed_to_words(shown, *groups).argmax(1)
                right[name, row] += sum(int(found[j]) == i for i, j in wanted)
    print(f"{given.run}: {len(known):,} known pairs of words, {together:,} places")
    for name in maps:
        predicted, read = (right[name, row] / together for row in ("predicted", "read"))
        print(f"{name:20} predicted {predicted:6.1%}  read {read:6.1%}")


if __name__ == "__main__":
    main()
