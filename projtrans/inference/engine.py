"""Which engine translates: PyTorch, or ONNX Runtime where the run was exported for it. Imports only the one chosen."""

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
"""Where Linux shows that there is a GPU: asking torch would take as long as translating."""


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

    auto: where no precision decides it, ONNX Runtime on the processor, if it is installed and the run holds an export
    of its present weights; PyTorch otherwise, and wherever a GPU is at hand. precision: None is float32 with PyTorch,
    and with ONNX Runtime the most exact export. note: told in a line why an export that is there is not used.
    Raises ConfigError for flags that exclude each other, and what the engines raise.
    """
    if engine == "auto" and precision in ("bf16", "int8"):
        engine = "torch" if precision == "bf16" else "onnx"
    if engine != "auto" and precision not in (None, *PRECISIONS[engine]):
        raise ConfigError(f"--precision {precision}: the {engine} engine has {' and '.join(PRECISIONS[engine])}")
    if engine == "onnx" and device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: the onnx engine computes on the processor; leave --device out")
    if engine == "onnx":
        return OnnxTranslator.of_run(run, precision, threads)
    if engine == "auto" and _on_processor(device) and onnx_translator.installed() and _exported(run, precision):
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


def _on_processor(device: str) -> bool:
    """Whether that is where torch would compute, as far as can be told without it."""
    return device == "cpu" or (device == "auto" and not any(Path(name).exists() for name in GPU_FILES))
