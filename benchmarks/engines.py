"""Both engines on one trained run: start-up, latency of a sentence, throughput of a file, differing lines, BLEU.

    python benchmarks/engines.py RUN DATA [--lines 3000] [--beams 1,5] [--starts 9] [--threads 1] [--peer FOLDER]
                           [--only NAME] [--batch-tokens N] [--peer-tokens N]

RUN has to be exported in float32 and int8. --peer: also a CTranslate2 model, written by to_ctranslate2.py. Every time
is printed twice: as wall-clock time, and as the CPU time of this process, which other work disturbs less.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from projtrans.cli.shell import tune_allocator

tune_allocator()  # before torch is imported, as the command line does

import numpy as np  # noqa: E402
import sacrebleu  # noqa: E402
import torch  # noqa: E402

from projtrans.data.data_folder import read_split  # noqa: E402
from projtrans.data.tokenizer import Tokenizer  # noqa: E402
from projtrans.inference.onnx_translator import OnnxStepper, OnnxTranslator  # noqa: E402
from projtrans.inference.torch_translator import Translator  # noqa: E402
from projtrans.inference.translation import Candidate, Translation  # noqa: E402
from projtrans.inference.translator import SentenceTranslator  # noqa: E402
from projtrans.runs.run_folder import open_run  # noqa: E402

ENGINES = [("torch", []), ("onnx float32", ["--precision", "float32"]), ("onnx int8", ["--precision", "int8"])]


class Peer:
    """CTranslate2 behind the methods that `compare` and `latency` call: our ids, batches as its manual forms them."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, precision: str, threads: int, tokens: int) -> None:
        """tokens: per batch."""
        import ctranslate2

        self.engine = ctranslate2.Translator(
            str(folder), "cpu", inter_threads=1, intra_threads=threads, compute_type=precision
        )
        self.tokenizer, self.tokens, self.beam_size = tokenizer, tokens, 5

    def with_decoding(self, beam_size: int) -> "Peer":
        """The same translator with another beam size."""
        other = copy.copy(self)
        other.beam_size = beam_size
        return other

    def __call__(self, line: str) -> str:
        """The best translation of one sentence."""
        return self.translate([line])[0].text

    def translate(self, lines: Sequence[str]) -> list[Translation]:
        """One translation per line."""
        end = self.tokenizer.eos_id
        tokens = [[str(i) if i != end else "</s>" for i in ids] for ids in self.tokenizer.encode_source(list(lines))]
        found = self.engine.translate_batch(
            tokens, beam_size=self.beam_size, max_batch_size=self.tokens, batch_type="tokens", return_scores=True
        )
        texts = self.tokenizer.decode_target([list(map(int, one.hypotheses[0])) for one in found])
        scores = [one.scores[0] * len(one.hypotheses[0]) for one in found]
        return [
            Translation(line, [Candidate(text, score)]) for line, text, score in zip(lines, texts, scores, strict=True)
        ]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of the work, its wall-clock seconds and its CPU seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - processor


def start(run: Path, options: list[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of the whole process."""
    command = [sys.executable, "-m", "projtrans", "translate", "Let me go alone.", "--model", str(run), *options]
    clock, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - clock, processor


def starts(run: Path, count: int, threads: int) -> None:
    """From process start to its answer."""
    for name, options in ENGINES:
        engine = ["--engine", "onnx" if options else "torch", "--threads", str(threads), *options]
        times = [start(run, engine) for _ in range(count)]
        clock, processor = (sorted(column) for column in zip(*times, strict=True))
        print(
            f"start {name}: median {statistics.median(clock):.2f} s (least {clock[0]:.2f}), processor "
            f"{statistics.median(processor):.2f} s (least {processor[0]:.2f})",
            flush=True,
        )


def latency(name: str, translator: "SentenceTranslator | Peer", line: str, count: int = 60) -> None:
    """One sentence, greedy."""
    greedy = translator.with_decoding(beam_size=1)
    times = [timed(lambda: greedy(line))[1:] for _ in range(count)]
    clock, processor = (sorted(column) for column in zip(*times, strict=True))
    tokens = len(translator.tokenizer.encode_target([greedy(line)])[0]) + 1
    print(
        f"sentence {name}: median {statistics.median(clock) * 1e3:.1f} ms (least {clock[0] * 1e3:.1f}), processor "
        f"{statistics.median(processor) * 1e3:.1f} ms (least {processor[0] * 1e3:.1f}), {tokens} tokens",
        flush=True,
    )


def parts(name: str, translator: OnnxTranslator, line: str) -> None:
    """The time of the graphs for one sentence, least of 200 runs."""
    source = np.array(translator.tokenizer.encode_source([line]))
    given = {"source": source, "mask": source != translator.tokenizer.pad_id}
    encoder = min(timed(lambda: translator.encoder.run(None, given))[1] for _ in range(200))
    decoder = OnnxStepper(translator.decoder, translator.encoder.run(None, given), given["mask"])
    for _ in range(5):
        decoder.step(np.array([[2]]))
    past, steps = decoder.past, []
    for _ in range(200):
        decoder.past = past
        steps.append(timed(lambda: decoder.step(np.array([[2]])))[1])
    print(f"graphs {name}: encoder {encoder * 1e3:.2f} ms, decoder step {min(steps) * 1e3:.2f} ms", flush=True)


def compare(translators: "dict[str, SentenceTranslator | Peer]", pairs: list[Any], beam_size: int) -> None:
    """Throughput, lines that differ from torch's with the gaps of their scores, and BLEU."""
    lines, references = [pair.source for pair in pairs], [[pair.target for pair in pairs]]
    theirs: list[Any] = []
    for name, translator in translators.items():
        decoder = translator.with_decoding(beam_size=beam_size)
        found, clock, processor = timed(lambda decoder=decoder: decoder.translate(lines))
        theirs = theirs or found
        gaps = [abs(a.score - b.score) for a, b in zip(found, theirs, strict=True) if a.text != b.text]
        bleu = sacrebleu.corpus_bleu([translation.text for translation in found], references).score
        speed = f"{len(lines) / clock:.0f} sentences/s, {len(lines) / processor:.0f} a processor second"
        differ = f"{len(gaps)} of {len(lines)} lines differ, gaps {[round(gap, 6) for gap in gaps[:5]]}"
        print(f"beam {beam_size} {name}: {speed}; {differ}; BLEU {bleu:.2f}", flush=True)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lines", type=int, default=3000)
    parser.add_argument("--beams", default="1,5")
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="NAME", help="the engines with this in their name")
    parser.add_argument("--batch-tokens", type=int, help="source tokens that ours decode together")
    parser.add_argument("--peer-tokens", type=int, default=1024, help="the same of CTranslate2")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run, pairs = open_run(arguments.run), read_split(arguments.data, "test")[: arguments.lines]
    if arguments.starts:
        starts(arguments.run, arguments.starts, arguments.threads)
    translators: dict[str, SentenceTranslator | Peer] = {"torch": Translator.of_run(run, torch.device("cpu"))}
    translators["torch bf16"] = Translator.of_run(run, torch.device("cpu"), "bf16")
    for precision in ("float32", "int8"):
        translators[f"onnx {precision}"] = OnnxTranslator.of_run(run, precision, arguments.threads)
    if arguments.peer:
        for precision in ("float32", "int8"):
            peer = Peer(arguments.peer, run.tokenizer(), precision, arguments.threads, arguments.peer_tokens)
            translators[f"CTranslate2 {precision}"] = peer
    translators = {name: translator for name, translator in translators.items() if arguments.only in name}
    for translator in translators.values():
        if isinstance(translator, SentenceTranslator) and arguments.batch_tokens:
            translator.batch_tokens = arguments.batch_tokens
    line = next(pair.source for pair in pairs if len(pair.source.split()) == 10)
    for name, translator in translators.items():
        latency(name, translator, line)
        if isinstance(translator, OnnxTranslator):
            parts(name, translator, line)
    for beam_size in arguments.beams.split(","):
        if arguments.lines:
            compare(translators, pairs, int(beam_size))


main()
