"""What a validation costs, part by part: `python benchmarks/validation.py RUN DATA`.

The weights are those of the run; every part takes one turn in every round, and the median over rounds is printed.
"""

import argparse
import statistics
import time
from pathlib import Path

from projtrans.cli.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import torch  # noqa: E402

from projtrans.data.data_folder import load_tokenizer, read_split  # noqa: E402
from projtrans.evaluation.evaluate import forced  # noqa: E402
from projtrans.inference.torch_translator import Translator  # noqa: E402
from projtrans.runs.run_folder import open_run  # noqa: E402
from projtrans.runs.settings import of_run  # noqa: E402
from projtrans.training.trainer import Trainer  # noqa: E402


def main() -> None:
    """Time the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run, cpu = open_run(given.run), torch.device("cpu")
    train, valid = (read_split(given.data, name) for name in ("train", "valid"))
    trainer = Trainer(of_run(run), run, load_tokenizer(given.data), train[:1000], valid, cpu)
    translator = Translator.of_run(run, cpu).with_decoding(beam_size=trainer.training.validation_beam)
    parts = {
        "loss and accuracy, the whole split": lambda: forced(translator, valid),
        "BLEU and chrF of the sample": lambda: trainer.validator.sample_scores(translator),
        "what attention does": lambda: trainer.validator.attention(translator),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(given.rounds):
        for name, part in parts.items():
            begun = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    together = sum(medians.values())
    for name, median in medians.items():
        print(f"{name:40}{median:8.3f} s{median / together:8.2%}")


if __name__ == "__main__":
    main()
