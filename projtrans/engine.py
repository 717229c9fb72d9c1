"""Which engine translates: PyTorch, or ONNX Runtime where the run was exported for it. Imports only the one chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from projtrans import onnx_engine
from projtrans.errors import ConfigError, RunError
from projtrans.onnx_engine import OnnxTranslator
from projtrans.run import Run
from projtrans.translation import SentenceTranslator

Engine = Literal["auto", "torch", "onnx"]

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

    auto: ONNX Runtime on the processor, where it is installed and the run holds an export of its present weights;
    PyTorch otherwise, and wherever a GPU is at hand. note: told in a line why an export that is there is not used.
    Raises ConfigError for flags that exclude each other, and what the engines raise.
    """
    if engine == "torch" and precision is not None:
        raise ConfigError(f"--precision {precision}: belongs to --engine onnx; leave one of them out")
    if (engine == "onnx" or precision is not None) and device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device}: the onnx engine computes on the processor; leave --device out")
    if engine == "onnx" or precision is not None:
        return OnnxTranslator.of_run(run, precision, threads)
    if engine == "auto" and _on_processor(device) and onnx_engine.installed() and onnx_engine.exports(run):
        try:
            return OnnxTranslator.of_run(run, precision, threads)
        except RunError as error:  # where the run itself is damaged, torch says so too
            note(f"{error}; translating with torch")
    from projtrans import device as devices
    from projtrans.translate import Translator

    devices.use_threads(threads)
    return Translator.of_run(run, devices.choose(device))


def _on_processor(device: str) -> bool:
    """Whether that is where torch would compute, as far as can be told without it."""
    return device == "cpu" or (device == "auto" and not any(Path(name).exists() for name in GPU_FILES))
