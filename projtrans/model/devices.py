"""Devices: choosing and naming one, precision, threads and memory. Knows no model."""

import contextlib
import gc
import platform
from pathlib import Path
from typing import Literal

import torch

from projtrans.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


def choose(name: str) -> torch.device:
    """The device named auto (CUDA if available), cpu, cuda or cuda:N; raises ConfigError if it does not exist."""
    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this PyTorch ({torch.__version__}) finds no CUDA device; use cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: only {torch.cuda.device_count()} CUDA devices exist, counted from 0")
    return torch.device(name)


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None leaves it to torch (all cores)."""
    if threads is not None:
        torch.set_num_threads(threads)


def describe(device: torch.device) -> str:
    """The name of the device; for a CPU also the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' * (threads != 1)}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the device or the machine ran out of memory for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The messages of torch's allocators of main memory, which have no exception class of their own.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory")
    )


def wait(device: torch.device) -> None:
    """Wait until the device has done all work queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Release the memory that a failed attempt still holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: CUDA since Ampere, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool({"amx_bf16", "avx512_bf16"} & set(_cpuinfo("flags").split()))


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A context with bfloat16 products if asked for, or if `auto` finds that they pay."""
    bf16 = bfloat16_pays(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """The first value of a key in Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == key), "")
