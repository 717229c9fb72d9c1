"""Plain updates: the gradient of the training loss over an update's batches, and one step of the optimizer.

Knows the plan's batches and the state that it moves; neither when to stop nor what to save.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from projtrans.errors import ConfigError
from projtrans.model import devices
from projtrans.model.batching import Batch, Batches, PaddedBatch
from projtrans.model.loss import TokenLoss, cross_entropy, r_drop
from projtrans.model.transformer import Transformer
from projtrans.runs.checkpoint import random_tensors, restore_random
from projtrans.runs.settings import TrainingConfig
from projtrans.training.counters import Sums
from projtrans.training.distributed import Group
from projtrans.training.epochs import EpochPlan
from projtrans.training.optimizer import clip, set_rate
from projtrans.training.state import TrainingState


class ShortOfMemory(Exception):
    """A batch of the update does not fit into memory; the weights are those before the update."""


def refuse_single_pair(device: torch.device, sentences: int, source: int, target: int) -> None:
    """Raise ConfigError where a batch of this size, too large for the memory, is a single pair: it cannot be halved."""
    if sentences == 1:
        raise ConfigError(
            f"out of memory on {devices.describe(device)} with one sentence pair of {source} source and {target} "
            "target tokens; lower corpus.max_length, model.width or model.layers, or use another --device"
        )


class Updates(Protocol):
    """A way of making updates."""

    def begin(self, number: int, batches: Batches) -> None:
        """Get ready for epoch `number`, which has these batches; raises ShortOfMemory."""

    def update(self, first: int, last: int, rate: float) -> None:
        """One step of the optimizer on batches `first` to `last` - 1 of the epoch; raises ShortOfMemory."""


class Objective:
    """The training loss of a batch."""

    def __init__(self, model: Transformer, training: TrainingConfig, device: torch.device) -> None:
        self.model, self.training, self.device = model, training, device

    def positions(self, batch: Batch) -> int:
        """The positions that the loss of a batch sums over."""
        return batch.counted_BT.numel() if self.training.padding_in_loss else len(batch.real_N)

    def hidden(self, batch: PaddedBatch) -> Tensor:
        """The decoder's hidden states [B, T, D], bfloat16 under autocast."""
        with devices.autocast(self.device, self.training.precision):
            h_BTD: Tensor = self.model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
            half = torch.is_autocast_enabled(self.device.type)
        return h_BTD.bfloat16() if half else h_BTD

    def passes(self, batch: Batch) -> list[Tensor]:
        """The hidden states of one pass, or of two with different dropout under R-Drop."""
        return [self.hidden(batch) for _ in range(1 if self.training.r_drop is None else 2)]

    def losses(self, batch: Batch, *h_BTD: Tensor) -> list[TokenLoss]:
        """The loss of one pass or two at tokens, then that at padding where padding is learned too."""
        places = [batch.real_N, batch.padding_N] if self.training.padding_in_loss else [batch.real_N]
        output, smoothing, alpha = self.model.output, self.training.label_smoothing, self.training.r_drop
        target_M = batch.target_out_BT.flatten()
        found = []
        for some in places:
            common = (output.weight, output.bias, target_M[some], smoothing)
            h_ND = [h.flatten(0, 1).index_select(0, some) for h in h_BTD]
            found.append(cross_entropy(h_ND[0], *common) if alpha is None else r_drop(h_ND[0], h_ND[1], *common, alpha))
        return found


class PlainUpdates:
    """Updates on the batches as they are, each process taking its share."""

    def __init__(self, state: TrainingState, plan: EpochPlan, objective: Objective, group: Group) -> None:
        self.state, self.plan, self.objective, self.group = state, plan, objective, group
        self.training = objective.training

    def begin(self, number: int, batches: Batches) -> None:
        """Get ready for an epoch."""
        self.number, self.batches = number, batches

    def update(self, first: int, last: int, rate: float) -> None:
        """One step on these batches of the epoch."""
        shared = self.group.share(self.batches[first:last])
        self.step([self.plan.batch(self.number, indices) for indices in shared], rate)

    def step(self, batches: Sequence[Batch], rate: float) -> None:
        """One step on the mean gradient of all positions that the batches count, of every process.

        A single process never synchronizes the device here: whether loss and gradient are finite is found and acted
        upon there. Raises ShortOfMemory in every process where one of them is short of it.
        """
        state = self.state
        set_rate(state.optimizer, rate)
        self.group.seed(self.training.seed, state.counters.update)
        (positions,) = self.group.all_reduce_sum([sum(map(self.objective.positions, batches))])
        loss, gathered = self._gradient(batches, positions) or (None, Sums())
        short = loss is None
        loss = torch.zeros(()) if loss is None else loss
        if self.group.size > 1:
            total, lacking, *sums = self.group.all_reduce_sum([float(loss), float(short), *gathered.values()])
            loss, gathered, short = torch.tensor(total, device=state.device), Sums(*sums), lacking > 0
        if short:
            state.optimizer.zero_grad()
            raise ShortOfMemory
        self.group.add_gradients(state.model.parameters())
        norm = clip(state.model.parameters(), self.training.clip_norm)
        skip = state.move(loss, norm)
        state.recent.norm = norm
        state.recent.sums.join(gathered, skip)
        state.optimizer.zero_grad()

    def probe(self, batch: Batch) -> bool:
        """Whether every process has the memory for the batch, forward and backward; moves nothing."""
        state = self.state
        generators = random_tensors(state.device)
        # The optimizer will hold two numbers a weight; before its first step it holds none.
        moments = [] if state.optimizer.state else [torch.empty_like(p) for p in [*state.model.parameters()] * 2]
        state.model.train()
        fits = self._gradient([batch], self.objective.positions(batch)) is not None
        del moments
        state.optimizer.zero_grad()
        restore_random(state.device, generators)
        return not self.group.all_reduce_max(not fits)

    def _gradient(self, batches: Sequence[Batch], positions: float) -> tuple[Tensor, Sums] | None:
        """Add the gradient of the mean loss over `positions`; None where memory is short.

        Raises ConfigError where it is short for a single pair.
        """
        tried: list[Batch] = []
        try:
            return self._accumulate(batches, positions, tried)
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
        batch = tried[-1]
        S, T = batch.source_BS.shape[1], batch.target_out_BT.shape[1]
        refuse_single_pair(self.state.device, batch.sentences, S, T)
        return None

    def _accumulate(self, batches: Sequence[Batch], positions: float, tried: list[Batch]) -> tuple[Tensor, Sums]:
        """The same without regard to memory; every batch is appended to `tried` before it is."""
        objective, device = self.objective, self.state.device
        gathered, total = Sums(), torch.zeros((), device=device)
        for batch in batches:
            tried.append(batch)
            batch = batch.to(device)
            losses = objective.losses(batch, *objective.passes(batch))
            loss = torch.stack([loss.smoothed for loss in losses]).sum() / positions
            loss.backward()
            total = total + loss.detach()
            gathered.add(losses, len(batch.real_N), batch.counted_BT.numel())
        return total, gathered
