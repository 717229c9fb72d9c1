"""Which engine translates: PyTorch, or ONNX Runtime if the run was exported. Imports only the one chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from projtrans.errors import ConfigError, RunError
from projtrans.inference import onnx_translator
from projtrans.inference.onnx_translator import OnnxTranslator
from projtrans.inference.translator import SentenceTranslator
from projtrans.runs.run_folder import Run

Engine = Literal["auto", "torch", "onnx"]

PRECISIONS: dict[Engine, tuple[str, ...]] = {"torch": ("float32", "bf16"), "onnx": onnx_translator.PRECISIONS}

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Where Linux shows a GPU: asking torch would take as long as translating."""


def open_translator(
    run: Run,
    engine: Engine,
    *,
    precision: str | None,
    device: str,
    threads: int | None,
    note: Callable[[str], None],
) -> SentenceTranslator:
    """The translator of a run.

    auto: unless the precision decides, ONNX Runtime on the CPU if it is installed and the run holds an export of its
    current weights; otherwise, and wherever there is a GPU, PyTorch. precision: None is float32 with PyTorch, and the
    most exact export with ONNX Runtime. note: called with one line that says why an existing export is not used.
    Raises ConfigError for flags that exclude each other, and whatever the engines raise.
    """
    if engine == "auto" and precision in ("bf16", "int8"):
        engine = "torch" if precision == "bf16" else "onnx"
    if engine != "auto" and precision not in (None, *PRECISIONS[engine]):
        raise ConfigError(f"--precision {precision}: the {engine} engine has {' and '.join(PRECISIONS[engine])}")
    if engine == "onnx" and device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: the onnx engine computes on the CPU; leave --device out")
    if engine == "onnx":
        return OnnxTranslator.of_run(run, precision, threads)
    if engine == "auto" and _on_cpu(device) and onnx_translator.installed() and _exported(run, precision):
        try:
            return OnnxTranslator.of_run(run, precision, threads)
        except RunError as error:  # where the run itself is damaged, torch says so too
            note(f"{error}; translating with torch")
    from projtrans.inference.torch_translator import Translator
    from projtrans.model import devices

    devices.use_threads(threads)
    return Translator.of_run(run, devices.choose(device), "bf16" if precision == "bf16" else "fp32")


def _exported(run: Run, precision: str | None) -> bool:
    exports = onnx_translator.exports(run)
    return precision in exports if precision else bool(exports)


def _on_cpu(device: str) -> bool:
    """Whether torch would compute on the CPU, as far as can be told without importing it."""
    return device == "cpu" or (device == "auto" and not any(Path(name).exists() for name in GPU_FILES))
