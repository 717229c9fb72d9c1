"""Which device computes, and in which precision. Knows no model."""

import contextlib
import gc
import platform
from pathlib import Path
from typing import Literal

import torch

from projtrans.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


def choose(name: str) -> torch.device:
    """The device for auto (cuda where there is one), cpu, cuda or cuda:N; raises ConfigError for what is not there."""
    kind, _, number = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"--device {name}: no CUDA device is available to this PyTorch ({torch.__version__}); use cpu"
        )
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device(name)


def use_threads(threads: int | None) -> None:
    """Compute with so many processor threads; None leaves it to torch (all cores)."""
    if threads is not None:
        torch.set_num_threads(threads)


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device, or the machine, has no memory left for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The words of torch's allocators of main memory; an own class exists for devices only.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory")
    )


def wait(device: torch.device) -> None:
    """Return when the device has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what a failed attempt holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: CUDA since Ampere, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool({"amx_bf16", "avx512_bf16"} & set(_cpuinfo("flags").split()))


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """bfloat16 products where asked for, or where `auto` finds that they pay."""
    bf16 = bfloat16_pays(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    """The first line of that key in Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == key), "")
