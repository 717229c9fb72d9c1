"""Several processes on one run, as torchrun starts them: ranks and collectives.

    torchrun --nproc-per-node N -m -- projtrans train ...

(`--` ends the options of torchrun, which would take --run for one of its own.) Every process holds the whole model and
computes its share of each update's batches; one all_reduce sums the gradients, so that all take the same step. Rank 0,
the leader, alone writes files and prints. A single process is a group of one, for which everything here does nothing.
The only file that calls torch.distributed; knows no model.
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
"""How long a collective waits, for instance while the leader validates; a process that dies is noticed at once."""

FAILURE = "failure"
"""The key under which the first process that fails stores its rank and exit status."""

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
        """This process's share of an update's batches, dealt out in turn; the last ranks may get none."""
        return batches[self.rank :: self.size]

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process: of several CUDA devices the one with its local rank."""
        if self.size == 1 or str(chosen) != "cuda":
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own

    def seed(self, seed: int, update: int) -> None:
        """Give every process dropout masks of its own; the leader's are those of a single process.

        The others are seeded for every update from seed, rank and update, so that nothing has to be saved.
        """
        if not self.is_leader:
            state = np.random.SeedSequence([seed, self.rank, update]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]))

    # Collectives: every process has to call them, in the same order

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with _peers():
            torchs.all_reduce(sums)
        return sums.tolist()

    def all_reduce_max(self, value: int) -> int:
        """The largest number of all processes."""
        if self.size == 1:
            return value
        found = torch.tensor(value)
        with _peers():
            torchs.all_reduce(found, torchs.ReduceOp.MAX)
        return int(found)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes; a process without a batch adds zeros."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _peers():
            torchs.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Replace the tensors by the leader's."""
        if self.size > 1:
            with _peers(), torch.no_grad():
                for tensor in tensors:
                    torchs.broadcast(tensor, 0)

    def broadcast(self, text: str) -> str:
        """The leader's text."""
        if self.size == 1:
            return text
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor(len(data))
        with _peers():
            torchs.broadcast(length, 0)
            data = data if self.is_leader else torch.empty(int(length), dtype=torch.uint8)
            torchs.broadcast(data, 0)
        return bytes(data.tolist()).decode()

    def barrier(self) -> None:
        """Return when all processes have called this."""
        self.all_reduce_max(0)


ALONE = Group()
"""A single process."""


@contextmanager
def joined() -> Iterator[Group]:
    """The group that torchrun's environment describes, or a single process without torchrun.

    The first process to fail shows its error; all others exit quietly with the same status.
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
    """The exit status that the error will lead to."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_status if isinstance(error, ProjtransError) else 1


def _first_to_fail(store: Any, rank: int, status: int) -> tuple[int, int]:
    """Rank and exit status of the process that failed first."""
    try:
        found = store.compare_set(FAILURE, "", f"{rank} {status}").decode()
    except RuntimeError:  # the process that kept the store has exited
        return rank, status
    first, _, code = found.partition(" ")
    return int(first), int(code)


@contextmanager
def _peers() -> Iterator[None]:
    """Turn torch's error about a process that is gone into one of this project."""
    try:
        yield
    except RuntimeError as error:
        raise RunError("another process of this run has ended; resume it with as many processes") from error
