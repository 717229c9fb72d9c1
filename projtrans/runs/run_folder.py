"""The run folder, without torch: its paths, configuration, tokenizer and summary.

    runs/NAME/  config.yaml        the resolved configuration
                tokenizer.model    (or tokenizer.src.model and tokenizer.tgt.model)
                model.safetensors  the best weights
                checkpoints/       the last complete state of training, the last good one, weights to be averaged
                metrics.jsonl      one JSON object per event
                summary.json       final scores, times, versions, device
                curves.png         loss, accuracy and BLEU per epoch, where matplotlib is installed
                tensorboard/       event files, where training.tensorboard asks for them
                test.hypotheses.txt, test.json   translations of the test split, and what made them
                onnx/              the best weights as graphs for ONNX Runtime

A run folder is self-contained: it can be moved to another machine. Knows no weights, and no section of the
configuration: their users build them.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from projtrans import config, files
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, RunError

Section = TypeVar("Section")
RUNS = Path("runs")
LATEST = RUNS / "latest"
CANDIDATE = "validated-{}.safetensors"


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def model_file(self) -> Path:
        """The best weights."""
        return self.folder / "model.safetensors"

    @property
    def state_file(self) -> Path:
        """The last complete state of training."""
        return self.folder / "checkpoints" / "last.safetensors"

    def candidate_file(self, update: int) -> Path:
        """The validated weights of an update, kept for averaging."""
        return self.state_file.with_name(CANDIDATE.format(update))

    @property
    def candidate_files(self) -> list[Path]:
        """The validated weights that are kept."""
        return sorted(self.state_file.parent.glob(CANDIDATE.format("*")))

    @property
    def good_file(self) -> Path:
        """The state to go back to: the last one whose validation loss was finite, or the very first."""
        return self.folder / "checkpoints" / "good.safetensors"

    @property
    def has_begun(self) -> bool:
        """Whether a state or a model was saved."""
        return any(file.exists() for file in (self.state_file, self.good_file, self.model_file))

    @property
    def metrics_file(self) -> Path:
        """One JSON object per event."""
        return self.folder / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """Final scores, times, versions, device."""
        return self.folder / "summary.json"

    @property
    def curves_file(self) -> Path:
        """Loss, accuracy and BLEU per epoch, as a picture."""
        return self.folder / "curves.png"

    @property
    def tensorboard_folder(self) -> Path:
        """Event files of TensorBoard."""
        return self.folder / "tensorboard"

    @property
    def hypotheses_file(self) -> Path:
        """The translations of the test split, one a line."""
        return self.folder / "test.hypotheses.txt"

    @property
    def test_file(self) -> Path:
        """Their scores, with a record of model, pairs and search."""
        return self.folder / "test.json"

    @property
    def raw_config(self) -> config.Raw:
        """The resolved configuration as plain values; RunError where it cannot be read."""
        try:
            return config.read_yaml(self.config_file)
        except ConfigError as error:
            raise RunError(f"run {self.folder}: {error}") from error

    @property
    def decisive_settings(self) -> dict[str, Any]:
        """The settings that translations depend on besides those of the search."""
        raw = self.raw_config
        corpus = raw.get("corpus")
        return {"model": raw.get("model"), "max_length": corpus.get("max_length") if isinstance(corpus, dict) else None}

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the weights, and of the settings that decide translations."""
        settings = files.digest(list(self.decisive_settings.values()))
        return {"weights": files.checksum(self.model_file), "settings": settings}

    def section(self, name: str, section: type[Section]) -> Section:
        """One section of the configuration; RunError where this version cannot build it."""
        try:
            return config.build(section, self.raw_config.get(name), name)
        except ConfigError as error:
            raise RunError(f"run {self.folder}: config.yaml: {error}") from error

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the run was trained with."""
        return Tokenizer.load(self.folder)

    def create(self, raw: config.Raw, tokenizer: Tokenizer) -> None:
        """Create the folder with configuration and tokenizer; ConfigError where it already holds a run."""
        self.refuse_existing()
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(self.folder)
        self.keep_config(raw)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against any other training; RunError where another holds the lock."""
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(self.state_file.with_name("lock")) as free:
            if not free:
                raise RunError(f"run {self.folder}: another process is training it; wait for it to end, or stop it")
            yield

    def keep_config(self, raw: config.Raw) -> None:
        """Write the resolved configuration."""
        files.write_text(self.config_file, config.to_yaml(raw))

    def refuse_existing(self) -> None:
        """Raise ConfigError where the folder holds a run, or is not a folder."""
        if self.config_file.exists():
            raise ConfigError(f"run {self.folder}: holds a run already; use --resume, or another --run DIR")
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"run {self.folder}: not a directory; use another --run DIR")

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; numbers that are not finite become null."""
        record = _finite(record)
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    @property
    def metrics_bytes(self) -> int:
        """The size of metrics.jsonl so far."""
        return self.metrics_file.stat().st_size if self.metrics_file.exists() else 0

    def sync_metrics(self) -> None:
        """Flush metrics.jsonl to the disk, before a state that records its size is written."""
        files.sync(self.metrics_file)

    def remove_leftovers(self) -> None:
        """Remove temporary files that were being written when training was killed."""
        written = (self.config_file, self.model_file, self.state_file, self.good_file, self.summary_file)
        for file in (*written, self.curves_file, self.hypotheses_file, self.test_file):
            files.remove_leftovers(file)
        for leftover in self.state_file.parent.glob(f".{CANDIDATE.format('*')}.*"):
            leftover.unlink(missing_ok=True)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The events of metrics.jsonl so far, without a last line that is still being written.

        Raises RunError with the number of a line that is not a JSON object.
        """
        if not self.metrics_file.exists():
            return []
        data = self.metrics_file.read_bytes()
        lines = files.decode_lines(data[: data.rfind(b"\n") + 1], str(self.metrics_file))
        return [_object(line, f"{self.metrics_file}:{number}") for number, line in enumerate(lines, 1)]

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json, or None before training has ended; RunError where it is damaged."""
        if not self.summary_file.exists():
            return None
        return _object("\n".join(files.read_lines(self.summary_file)), str(self.summary_file))

    def truncate_metrics(self, size: int) -> None:
        """Cut the log back to its first `size` bytes: training logs the rest again."""
        if self.metrics_bytes > size:
            os.truncate(self.metrics_file, size)

    def mark_latest(self) -> None:
        """Point runs/latest to this run, if it lies in runs/."""
        if self.folder.parent.resolve() != LATEST.parent.resolve() or (LATEST.exists() and not LATEST.is_symlink()):
            return
        temporary = LATEST.with_name(f".latest.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.folder.name)
        temporary.replace(LATEST)


def open_run(folder: Path | None) -> Run:
    """The run in a folder (default runs/latest); raises RunError where there is none."""
    folder = folder or LATEST
    if not folder.is_dir():
        hint = "train one with 'projtrans train'" if folder == LATEST else "name a folder that 'projtrans train' made"
        raise RunError(f"run {folder}: no such folder; {hint}")
    run = Run(folder.parent / folder.readlink() if folder.is_symlink() else folder)
    if not run.config_file.is_file():
        raise RunError(f"run {folder}: not a run (no config.yaml); name a folder that 'projtrans train' made")
    return run


def free_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, ... that does not exist."""
    number, folder = 1, RUNS / name
    while folder.exists():
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunError(f"{place}: damaged, not JSON; restore the file, or train the run anew") from error
    if not isinstance(value, dict):
        raise RunError(f"{place}: damaged, no JSON object; restore the file, or train the run anew")
    return value


def _finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
