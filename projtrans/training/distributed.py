"""Several processes on one run, as torchrun starts them: who is who, and what they tell each other.

    torchrun --nproc-per-node N -m -- projtrans train ...

(`--` ends the options of torchrun, which takes --run for one of its own.) Every process holds the whole model and
computes its share of each update's batches; gradients are added up over all of them in one piece, so that all take the
same step. The leader alone writes files and prints. One process is a group of one, for which everything here does
nothing. The only file that speaks to torch.distributed; knows no model.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as torchs

from projtrans.errors import ProjtransError, RunError

PATIENCE = timedelta(days=7)
"""How long processes wait for each other while the leader scores; whoever dies is noticed all the same."""

FAILURE = "failure"
"""Where the first process that fails leaves its rank and exit status."""

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """How the command line of this group begins."""
        return f"torchrun --nproc-per-node {self.size} -m -- projtrans" if self.size > 1 else "projtrans"

    def share(self, batches: Sequence[T]) -> Sequence[T]:
        """This process's part of an update's batches, dealt out in turn; the last processes may go without."""
        return batches[self.rank :: self.size]

    def device(self, chosen: torch.device) -> torch.device:
        """The processor of this process: of several CUDA devices the one with its local rank."""
        if self.size == 1 or str(chosen) != "cuda":
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own

    def seed(self, seed: int, update: int) -> None:
        """Give the processes dropout masks of their own; the leader's are those of a single process.

        Each of the others begins every update at a place that seed, rank and update decide: nothing has to be saved.
        """
        if not self.is_leader:
            state = np.random.SeedSequence([seed, self.rank, update]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))

    # What they tell each other: every process has to call these, in the same order

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _others():
            torchs.all_reduce(sums)
        return sums.tolist()

    def all_reduce_max(self, value: int) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return value
        found = torch.tensor(value)
        with _others():
            torchs.all_reduce(found, torchs.ReduceOp.MAX)
        return int(found)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes; who had no batch adds zeros."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _others():
            torchs.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace the tensors by the leader's."""
        if self.size > 1:
            with _others(), torch.no_grad():
                for tensor in tensors:
                    torchs.broadcast(tensor, 0)

    def broadcast(self, text: str) -> str:
        """The leader's text."""
        if self.size == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor(len(data))
        with _others():
            torchs.broadcast(length, 0)
            data = data if self.is_leader else torch.empty(int(length), dtype=torch.uint8)
            torchs.broadcast(data, 0)
        return bytes(data.tolist()).decode()

    def barrier(self) -> None:
        """Go on when all have come here."""
        self.all_reduce_max(0)


ALONE = Group()
"""A single process."""


@contextmanager
def joined() -> Iterator[Group]:
    """The group that torchrun's environment describes; a single process where there is none.

    The first process to fail shows its error; all others end quietly with the same exit status.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torchs.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    group = Group(rank, size)
    try:
        yield group
        group.barrier()
    except BaseException as error:
        first, status = _first_to_fail(store, rank, _status(error))
        if first != rank:
            raise SystemExit(status) from error
        raise
    finally:
        torchs.destroy_process_group()


def _status(error: BaseException) -> int:
    """The exit status that the error will have."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_status if isinstance(error, ProjtransError) else 1


def _first_to_fail(store: Any, rank: int, status: int) -> tuple[int, int]:
    """Rank and exit status of the process that failed first."""
    try:
        found = store.compare_set(FAILURE, "", f"{rank} {status}").decode()
    except RuntimeError:  # whoever kept the store has ended
        return rank, status
    first, _, code = found.partition(" ")
    return int(first), int(code)


@contextmanager
def _others() -> Iterator[None]:
    """What torch says when another process is gone, as an error of this project."""
    try:
        yield
    except RuntimeError as error:
        raise RunError("another process of this run has ended; resume it with as many processes") from error
