"""Translating with ONNX Runtime, without torch: what `projtrans export` left in a run folder.

    runs/NAME/onnx/  encoder.PRECISION.onnx   source ids to what the decoder attends to
                     decoder.PRECISION.onnx   one more token of every hypothesis, with its caches
                     PRECISION.json           what both were made from: written last, removed first

Both graphs are traced from the modules themselves (onnx_export.py), so that this file holds no equation.
Axes: B sentences, M hypotheses of a sentence, S source positions.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from projtrans import files
from projtrans.data.corpus import CorpusConfig
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, RunError
from projtrans.inference.translator import SentenceTranslator
from projtrans.runs.run_folder import Run, open_run
from projtrans.search.decoding import DecodingConfig
from projtrans.search.numpy_scores import NumpyScores
from projtrans.search.rules import Ints
from projtrans.search.search import Hypothesis, SearchRequest, search

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


Precision = Literal["float32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")

FORMAT = 1
EXTRA = "pip install 'projtrans[fast]'"


@dataclass(frozen=True)
class Export:
    """What an export was made from, and what the caller of its graphs needs to know."""

    format: int
    precision: str
    weights: str  # SHA-256 of model.safetensors
    tokenizer: str  # SHA-256 of the tokenizer
    settings: str  # SHA-256 of the model section of config.yaml and the longest source
    longest_source: int  # tokens, EOS included
    longest_target: int  # rows of the decoder's positions
    mask_padding: bool
    made_with: dict[str, str]  # versions

    def write(self, run: Run) -> None:
        """Write the record, which makes the export valid."""
        files.write_json(record_file(run, self.precision), asdict(self))


def installed() -> bool:
    """Whether ONNX Runtime is installed, without importing it."""
    return importlib.util.find_spec("onnxruntime") is not None


def graph_files(run: Run, precision: str) -> tuple[Path, Path]:
    """The paths of the encoder's and the decoder's graph."""
    folder = run.folder / "onnx"
    return folder / f"encoder.{precision}.onnx", folder / f"decoder.{precision}.onnx"


def record_file(run: Run, precision: str) -> Path:
    """The path of the record that says what the graphs were made from."""
    return run.folder / "onnx" / f"{precision}.json"


def exports(run: Run) -> list[str]:
    """The precisions in which the run was exported, valid or not, the most exact first."""
    return [precision for precision in PRECISIONS if record_file(run, precision).is_file()]


def matching(run: Run, precision: str) -> Export:
    """The export in a precision; raises RunError if there is none, or if it was made from something else."""
    again = f"run 'projtrans export {run.folder} --precision {precision}'"
    path = record_file(run, precision)
    if not path.is_file():
        raise RunError(f"run {run.folder}: no {precision} export in it; {again}")
    if not run.model_file.is_file():
        raise RunError(f"run {run.folder}: no model.safetensors in it, which its export is checked against")
    try:
        export = Export(**json.loads("\n".join(files.read_lines(path))))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path}: damaged, or of another version of projtrans; {again}") from error
    found = {"weights": export.weights, "settings": export.settings}
    if export.format != FORMAT or found != run.fingerprint():
        raise RunError(f"run {run.folder}: its {precision} export was made from other weights or settings; {again}")
    return export


class OnnxTranslator(SentenceTranslator):
    """A trained model ready to translate, computed by ONNX Runtime on the CPU."""

    def __init__(
        self,
        encoder: "InferenceSession",
        decoder: "InferenceSession",
        export: Export,
        tokenizer: Tokenizer,
        decoding: DecodingConfig,
        *,
        cut_sources: bool,
    ) -> None:
        self.encoder, self.decoder, self.mask_padding = encoder, decoder, export.mask_padding
        self.engine = f"onnx in {export.precision}"
        longest = {"longest_source": export.longest_source, "longest_target": export.longest_target}
        super().__init__(tokenizer, decoding, **longest, cut_sources=cut_sources)

    @classmethod
    def load(
        cls, folder: str | Path | None = None, precision: str | None = None, threads: int | None = None
    ) -> "OnnxTranslator":
        """The translator of a run folder (default runs/latest); otherwise as `of_run`."""
        return cls.of_run(open_run(None if folder is None else Path(folder)), precision, threads)

    @classmethod
    def of_run(cls, run: Run, precision: str | None = None, threads: int | None = None) -> Self:
        """The translator of a run's export (by default the most exact one); threads: None for all cores.

        Raises ConfigError if ONNX Runtime is missing, RunError if the export is missing or does not match the run.
        """
        if not installed():
            raise ConfigError(f"--engine onnx: ONNX Runtime is not installed; {EXTRA}")
        precision = precision or next(iter(exports(run)), PRECISIONS[0])
        export = matching(run, precision)
        tokenizer = run.tokenizer()
        if tokenizer.checksum != export.tokenizer:
            raise RunError(f"run {run.folder}: its export was made with another tokenizer than the one beside it")
        encoder, decoder = (_session(path, threads, run) for path in graph_files(run, precision))
        cut = run.section("corpus", CorpusConfig).overlong == "cut"
        return cls(encoder, decoder, export, tokenizer, run.section("decoding", DecodingConfig), cut_sources=cut)

    def search(self, sources: Sequence[list[int]], request: SearchRequest) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first."""
        width = max(map(len, sources)) if self.mask_padding else self.longest_source
        source_BS = np.full((len(sources), max(1, width)), self.tokenizer.pad_id, dtype=np.int64)
        for row, ids in zip(source_BS, sources, strict=True):
            row[: len(ids)] = ids
        inputs = {"source": source_BS} | ({"mask": source_BS != self.tokenizer.pad_id} if self.mask_padding else {})
        memory = [np.asarray(array) for array in self.encoder.run(None, inputs)]
        return search(OnnxStepper(self.decoder, memory, inputs.get("mask")), request)


class OnnxStepper:
    """The decoder's graph as the search sees it: scores of the next token, and caches that follow the hypotheses."""

    def __init__(self, session: "InferenceSession", memory: list[Any], mask: Any) -> None:
        from onnxruntime import OrtValue

        self.session, self.value = session, OrtValue.ortvalue_from_numpy
        self.memory = {f"memory_{i}": array for i, array in enumerate(memory)} | (
            {} if mask is None else {"mask": mask}
        )
        self.constant = {name: self.value(array) for name, array in self.memory.items()}
        self.sentences = len(memory[0])
        self.outputs = [output.name for output in session.get_outputs()]
        inputs = {given.name: given.shape for given in session.get_inputs()}
        shapes = [inputs[f"past_{i}"] for i in range(len(self.outputs) - 1)]
        self.past: list[OrtValue] = [
            self.value(np.zeros((self.sentences, heads, 0, width), np.float32)) for _, heads, _, width in shapes
        ]

    def step(self, token_BM: Ints) -> NumpyScores:
        """As `Stepper.step`."""
        past = {f"past_{i}": value for i, value in enumerate(self.past)}
        given = {"token": self.value(np.ascontiguousarray(token_BM)), **past, **self.constant}
        logits, *self.past = self.session.run_with_ort_values(self.outputs, given)
        return NumpyScores(logits.numpy())

    def select(self, sentence_B: Ints, parent_BM: Ints) -> None:
        """As `Stepper.select`."""
        hypotheses = self.past[0].shape()[0] // self.sentences
        rows = (sentence_B[:, None] * hypotheses + parent_BM).ravel()
        self.past = [self.value(value.numpy().take(rows, 0)) for value in self.past]
        if len(sentence_B) < self.sentences:
            self.memory = {name: array.take(sentence_B, 0) for name, array in self.memory.items()}
            self.constant = {name: self.value(array) for name, array in self.memory.items()}
            self.sentences = len(sentence_B)


def _session(path: Path, threads: int | None, run: Run) -> "InferenceSession":
    """A graph ready to run; it was optimised when it was exported."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    damaged = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (*damaged, errors.NotImplemented, errors.RuntimeException) as error:
        raise RunError(
            f"{path}: missing, damaged, or too new for this ONNX Runtime; run 'projtrans export {run.folder}' again"
        ) from error
