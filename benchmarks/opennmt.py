"""Training speed beside OpenNMT-py, in turns: `python benchmarks/opennmt.py DATA --peer VENV/bin/onmt_train`.

Both train the same model (3 + 3 layers, width 256, feed-forward 1024, 4 heads, shared embeddings, dropout 0.1, label
smoothing 0.1) on the same tokens, at most 4,096 source or target tokens a batch, by the commands that their users type.
OpenNMT-py 3.5.1: `pip install --no-deps OpenNMT-py==3.5.1`, beside torch, configargparse, pyonmttok and the like.
"""

import argparse
import collections
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from projtrans.data.data_folder import load_tokenizer, read_split

WARM = 10
"""Updates before the clock starts, in both."""

PEER = {
    "save_data": "run",
    "share_vocab": True,
    "src_vocab": "vocab",
    "tgt_vocab": "vocab",
    "overwrite": True,
    "data": {"corpus": {"path_src": "train.src", "path_tgt": "train.tgt"}},
    "save_model": "run/m",
    "encoder_type": "transformer",
    "decoder_type": "transformer",
    "position_encoding": True,
    "layers": 3,
    "hidden_size": 256,
    "word_vec_size": 256,
    "heads": 4,
    "transformer_ff": 1024,
    "dropout": [0.1],
    "attention_dropout": [0.0],
    "share_embeddings": True,
    "share_decoder_embeddings": True,
    "label_smoothing": 0.1,
    "batch_size": 4096,
    "batch_type": "tokens",
    "normalization": "tokens",
    "bucket_size": 100_000,
    "num_workers": 0,
    "prefetch_factor": 16,
    "optim": "adam",
    "adam_beta2": 0.98,
    "learning_rate": 1,
    "decay_method": "noam",
    "warmup_steps": 400,
    "max_grad_norm": 1,
    "param_init": 0,
    "param_init_glorot": True,
    "valid_steps": 10**6,
    "save_checkpoint_steps": 10**6,
    "report_every": WARM,
    "world_size": 1,
    "seed": 1,
}


def write_tokens(data: Path, folder: Path) -> None:
    """The training pairs as token ids, and how often each occurs: what OpenNMT-py reads."""
    tokenizer, pairs = load_tokenizer(data), read_split(data, "train")
    count = collections.Counter[str]()
    sides = {"src": tokenizer.encode_source([pair.source for pair in pairs])}
    sides["tgt"] = tokenizer.encode_target([pair.target for pair in pairs])
    for side, rows in sides.items():
        lines = [[str(token) for token in ids] for ids in rows]
        count.update(token for line in lines for token in line)
        (folder / f"train.{side}").write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")
    vocabulary = "".join(f"{token}\t{n}\n" for token, n in count.most_common())
    (folder / "vocab").write_text(vocabulary, encoding="utf-8")


def peer(command: str, folder: Path, updates: int, threads: int) -> float:
    """Target tokens a second of OpenNMT-py, from its own reports."""
    (folder / "peer.yaml").write_text(yaml.safe_dump({**PEER, "train_steps": updates}), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    made = subprocess.run(
        [command, "-config", "peer.yaml"], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    reports = re.findall(r"Step (\d+)/.*?/\s*(\d+) tok/s", made.stderr + made.stdout)
    return statistics.harmonic_mean([float(speed) for update, speed in reports if int(update) > WARM])


def ours(data: Path, folder: Path, updates: int, threads: int, *changes: str) -> float:
    """Target tokens a second of `projtrans train`, from its log; it is stopped when it has made the updates."""
    run = folder / f"run-{time.monotonic_ns()}"
    sets = ["training.batch_tokens=4096", "model.dropout=0.1", "training.warmup_updates=400", *changes]
    words = [sys.executable, "-m", "projtrans", "train", "--config", "tatoeba", "--data", str(data), "--run", str(run)]
    words += ["--quiet", "--threads", str(threads), "--set", f"training.report_updates={WARM}"]
    words += [word for change in sets for word in ("--set", change)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # it says that it was stopped
    log = run / "metrics.jsonl"
    reports: list[dict[str, float]] = []
    while process.poll() is None and not (reports and reports[-1]["update"] >= updates):
        time.sleep(0.5)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        reports = [event for event in map(json.loads, lines) if event["event"] == "train"]
    process.send_signal(signal.SIGINT)
    process.wait()
    return statistics.harmonic_mean([event["target_tokens_per_second"] for event in reports if event["update"] > WARM])


def main() -> None:
    """Take turns and print every figure, then the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", metavar="onmt_train", help="its command; without it, ours alone")
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    kinds = {
        "standard": ["model.attention.kind=standard"],
        "projection": ["model.attention.kind=projection"],
        "standard, float32": ["model.attention.kind=standard", "training.precision=fp32"],
    }
    speeds: dict[str, list[float]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(given.data, folder)
        for _ in range(given.rounds):
            for threads in given.threads:
                if given.peer:
                    speeds[f"OpenNMT-py, {threads} threads"].append(peer(given.peer, folder, given.updates, threads))
                for kind, changes in kinds.items():
                    speed = ours(given.data.resolve(), folder, given.updates, threads, *changes)
                    speeds[f"{kind}, {threads} threads"].append(speed)
            print({kind: [round(speed) for speed in found] for kind, found in speeds.items()}, flush=True)
    medians = {kind: statistics.median(found) for kind, found in speeds.items()}
    first = next(iter(medians.values()))
    for kind, speed in medians.items():
        print(f"{kind:32}{speed:8,.0f} target tokens/s{speed / first:8.2f}")


if __name__ == "__main__":
    main()
