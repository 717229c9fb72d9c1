"""Time of the CPU operations that the code avoids: `python benchmarks/operations.py [--threads 1]`.

Minimum of 30 calls in milliseconds, in float32 unless stated otherwise: the plain operation, and the one in use.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from projtrans.model.attention_function import masked_softmax
from projtrans.model.loss import _largest
from projtrans.model.transformer import dropout

RATE = 0.2


def least(work: Callable[[], object]) -> float:
    """Milliseconds."""
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def by_booleans(x: Tensor) -> Tensor:
    """Dropout as projtrans.model.transformer does it, except for the type of the mask."""
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= round(RATE * 65536) - 32768
    return x * kept * (1 / (1 - RATE))


def forward_and_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """The function and its gradient."""
    return lambda: torch.autograd.grad(function(x), x, torch.ones_like(x))


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for keys in (8, 15, 16, 17, 31):
        s = torch.randn(136, 4, 15, keys)
        plain, ours = least(lambda s=s: s.softmax(-1)), least(lambda s=s: masked_softmax(s, None))
        print(f"softmax of 8,160 rows of {keys}: {plain:.2f}, {ours:.2f}")
    x = torch.randn(136, 15, 256).bfloat16().requires_grad_()
    plain = least(forward_and_backward(by_booleans, x))
    ours = least(forward_and_backward(lambda x: dropout(x, RATE, True), x))
    torchs = least(forward_and_backward(lambda x: torch.nn.functional.dropout(x, RATE), x))
    print(f"dropout of {x.numel():,} numbers, bfloat16, with gradient: {plain:.2f}, {ours:.2f}; torch's {torchs:.2f}")
    p = torch.randn(256, 8000).softmax(-1)
    plain, ours = least(lambda: p.max(-1)), least(lambda: _largest(p))
    print(f"place of the largest in 256 rows of 8,000: {plain:.2f}, {ours:.2f}")


if __name__ == "__main__":
    main()
