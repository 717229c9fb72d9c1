"""Exporting: a run's weights as ONNX graphs, for the engine that needs no torch.

The graphs are traced from the modules themselves, so that every attention that runs can be exported, a new one too.
ONNX Runtime then folds and fuses what it can, once, instead of at every start. In int8, the weights of all matrices are
quantised in blocks of their columns; the rows multiplied by them are quantised block by block on the fly, so that no
sentence depends on the others in its batch.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from projtrans import files
from projtrans.data.corpus import CorpusConfig
from projtrans.errors import ConfigError, RunError
from projtrans.inference.onnx_translator import EXTRA, FORMAT, PRECISIONS, Export, graph_files, record_file
from projtrans.model.multihead import KeysValues, exact_modules, for_any_length
from projtrans.model.transformer import Memory, Transformer, sinusoids
from projtrans.runs.checkpoint import load_model
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


# Axes: B sentences, M hypotheses of a sentence, S source positions, T target positions so far.


NEEDED = ("onnxruntime", "onnx", "onnxscript")

BLOCK = 64
"""Weights of a column that share a scale: the error of 8 bits is then 0.8 % of a product (docs/benchmarks.md)."""


def missing() -> list[str]:
    """The packages that exporting needs and that are missing."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def export(run: Run, precisions: Sequence[str]) -> list[Path]:
    """Write the run's graphs in these precisions, and return their paths.

    Raises ConfigError for an unknown precision or a missing package, and RunError if the run has no weights yet, or an
    attention with an operator ONNX lacks.
    """
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ConfigError(f"--precision {precision}: expected {' or '.join(PRECISIONS)}")
    if missing():
        raise ConfigError(f"export: {', '.join(missing())} not installed; {EXTRA}")
    tokenizer = run.tokenizer()
    model = load_model(run, tokenizer)
    longest_source = run.section("corpus", CorpusConfig).max_length
    longest_target = _positions(model, run.section("decoding", DecodingConfig).longest(longest_source))
    for_any_length(model)
    made = run.fingerprint()
    graphs = [trace(model) for trace in (_encoder, _decoder)]
    written = []
    for precision in precisions:
        record_file(run, precision).unlink(missing_ok=True)
        for path, graph in zip(graph_files(run, precision), graphs, strict=True):
            _write(path, graph, precision, exact_modules(model))
            written.append(path)
        Export(
            format=FORMAT,
            precision=precision,
            **made,
            tokenizer=tokenizer.checksum,
            longest_source=longest_source,
            longest_target=longest_target,
            mask_padding=model.config.mask_padding,
            made_with={name: str(__import__(name).__version__) for name in ("torch", *NEEDED)},
        ).write(run)
    return written


def _positions(model: Transformer, longest_target: int) -> int:
    """Give the decoder as many positions as the longest translation needs; returns how many it has."""
    places = model.target_positions
    if places.learned is not None:
        return len(places.learned.weight)
    places.table = sinusoids(max(longest_target, len(places.table)), model.config.width)
    return len(places.table)


# ---------------------------------------------------------------------------------------------------------- tracing


class _Encoder(nn.Module):
    """`Transformer.encode` on flat lists of tensors."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_BS: Tensor, mask_BS: Tensor | None) -> list[Tensor]:
        return _flat(self.model.encode(source_BS, mask_BS).layers)


class _Decoder(nn.Module):
    """`Transformer.step` on flat lists of tensors."""

    def __init__(self, model: Transformer, memory: Sequence[KeysValues], past: Sequence[KeysValues]) -> None:
        """memory, past: examples of what `forward` gets, which show the values that layers have."""
        super().__init__()
        self.model = model
        self.held = [[[x is not None for x in vars(layer).values()] for layer in layers] for layers in (memory, past)]

    def forward(
        self, token_BM: Tensor, mask_BS: Tensor | None, memory: list[Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        mask_B11S = None if mask_BS is None else mask_BS[:, None, None, :]
        source, caches = (_layers(flat, held) for flat, held in zip((memory, past), self.held, strict=True))
        logits, caches = self.model.step(token_BM, Memory(source, mask_B11S), [*caches])
        return logits, _flat(caches)


def _layers(flat: list[Tensor], held: list[list[bool]]) -> list[KeysValues]:
    """The inverse of `_flat`; held: which values every layer has."""
    values = iter(flat)
    return [KeysValues(*(next(values) if there else None for there in layer)) for layer in held]  # type: ignore[arg-type]


def _flat(layers: Sequence[KeysValues]) -> list[Tensor]:
    return [value for layer in layers for value in vars(layer).values() if value is not None]


@torch.no_grad()
def _encoder(model: Transformer) -> "ModelProto":
    source_BS, mask_BS = _example(model)
    size = _size(0, 1)
    outputs = [f"memory_{i}" for i in range(len(_flat(model.encode(source_BS, mask_BS).layers)))]
    names = ["source", *_names(mask_BS)]
    return _traced(_Encoder(model), (source_BS, mask_BS), (size, None if mask_BS is None else size), names, outputs)


@torch.no_grad()
def _decoder(model: Transformer) -> "ModelProto":
    source_BS, mask_BS = _example(model)
    memory, token_BM = model.encode(source_BS, mask_BS), torch.ones(2, 4, dtype=torch.int64)
    past: list[KeysValues | None] = [None] * len(memory.layers)
    for _ in range(3):
        caches = model.step(token_BM, memory, past)[1]
        past = [*caches]
    flat_memory, flat_past = ([x.contiguous() for x in _flat(layers)] for layers in (memory.layers, caches))
    sizes = (
        _size(0, 1),
        None if mask_BS is None else _size(0, 1),
        *([_size(0, 2)] * len(x) for x in (flat_memory, flat_past)),
    )
    names = [*(f"memory_{i}" for i in range(len(flat_memory))), *(f"past_{i}" for i in range(len(flat_past)))]
    outputs = ["logits", *(f"cache_{i}" for i in range(len(flat_past)))]
    inputs = (token_BM, mask_BS, flat_memory, flat_past)
    return _traced(_Decoder(model, memory.layers, caches), inputs, sizes, ["token", *_names(mask_BS), *names], outputs)


def _example(model: Transformer) -> tuple[Tensor, Tensor | None]:
    """Distinct sizes, so that axes are told apart: 2 sentences, 5 positions (decoder: 4 hypotheses, a past of 3)."""
    source_BS = torch.ones(2, 5, dtype=torch.int64)
    return source_BS, source_BS > 0 if model.config.mask_padding else None


def _size(*axes: int) -> dict[int, Any]:
    """These axes may have any size."""
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def _names(mask_BS: Tensor | None) -> list[str]:
    return [] if mask_BS is None else ["mask"]


def _traced(
    module: nn.Module, inputs: tuple[Any, ...], sizes: tuple[Any, ...], names: list[str], outputs: list[str]
) -> "ModelProto":
    """The graph of a module; raises RunError for an operator ONNX lacks."""
    from torch.onnx import OnnxExporterError

    with _silence():
        try:
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                dynamic_shapes=sizes,
                input_names=names,
                output_names=outputs,
                custom_translation_table={torch.ops.aten._cdist_forward.default: _distances},
                optimize=False,
                verbose=False,
            )
        except OnnxExporterError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise RunError(f"export: this model cannot become an ONNX graph ({_line(cause)})") from error
    assert program is not None
    return program.model_proto


def _line(error: BaseException) -> str:
    """The first line of an error message."""
    return str(error).strip().partition("\n")[0]


def _distances(x: Any, y: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """torch.cdist, which torch cannot export: |x_i - y_j| in the p-norm, from the differences."""
    from onnxscript import opset18 as op

    last = op.Constant(value_ints=[-1])
    difference = op.Sub(op.Unsqueeze(x, op.Constant(value_ints=[-2])), op.Unsqueeze(y, op.Constant(value_ints=[-3])))
    if p == 2.0:
        return op.ReduceL2(difference, last, keepdims=0)
    powers = op.ReduceSum(op.Pow(op.Abs(difference), op.Constant(value_float=p)), last, keepdims=0)
    return op.Pow(powers, op.Constant(value_float=1 / p))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silence torch and its exporter, whose messages users cannot act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# ---------------------------------------------------------------------------------------------------------- writing


def _write(path: Path, graph: "ModelProto", precision: str, exact: Sequence[str]) -> None:
    """Fold and fuse the graph, quantise its matrices if the precision is int8, and write it."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    )  # more is machine-specific
    options.log_severity_level = 4
    with files.replacing(path) as temporary:
        options.optimized_model_filepath = str(temporary)
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        if precision == "int8":
            smaller = onnx.load(temporary)
            _to_int8(smaller.graph, _kept(graph.graph, exact))
            onnx.save(smaller, temporary)


def _kept(graph: "GraphProto", exact: Sequence[str]) -> set[str]:
    """The names of the products with [W_q; W_k; W_v] in modules whose logits need float32."""
    made = {name: node for node in graph.node for name in node.output}
    matrices = {f"model.{name}.qkv.weight" for name in exact}

    def weight(name: str) -> str:
        while name in made and made[name].input:
            name = made[name].input[0]
        return name

    return {node.name for node in graph.node if node.op_type == "MatMul" and weight(node.input[1]) in matrices}


def _to_int8(graph: "GraphProto", kept: set[str]) -> None:
    """Replace every product with a constant matrix by ONNX Runtime's product with int8 blocks."""
    from onnx import helper, numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type != "MatMul" or node.name in kept or node.input[1] not in constants:
            continue
        matrix = numpy_helper.to_array(constants[node.input[1]])
        names = [f"{node.name}.int8", f"{node.name}.scale"]
        graph.initializer.extend(map(numpy_helper.from_array, _blocks(matrix), names))
        settings = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": 8, "block_size": BLOCK}
        settings |= {"accuracy_level": 4}  # the rows multiplied by them in int8, too
        inputs, outputs = [node.input[0], *names], list(node.output)
        node.CopyFrom(helper.make_node("MatMulNBits", inputs, outputs, node.name, domain="com.microsoft", **settings))
    used = {name for node in graph.node for name in node.input}
    unused = [constant for constant in graph.initializer if constant.name not in used]
    for constant in unused:
        graph.initializer.remove(constant)


def _blocks(matrix: Any) -> tuple[Any, Any]:
    """Integers around 128 [columns, blocks, BLOCK], and the scales of their blocks [columns × blocks]."""
    rows, columns = matrix.shape
    padded = np.pad(matrix.T, [(0, 0), (0, -rows % BLOCK)]).reshape(columns, -1, BLOCK)
    scale = np.abs(padded).max(-1, keepdims=True) / 127
    whole = np.rint(padded / np.where(scale > 0, scale, 1.0)) + 128
    return whole.astype(np.uint8), scale.ravel()
