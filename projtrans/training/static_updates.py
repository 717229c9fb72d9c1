"""Updates that a device can replay: fixed shapes, a resident corpus, and everything that moves at one place in memory.

On a GPU the network of a paper's size is so small that starting its kernels takes longer than computing them. A CUDA
graph starts all kernels of an update at once; it can hold nothing that the host decides or reads, and no address that
changes. So here an update is a function of the device alone: rows of the resident corpus, the learning rate and the
count of positions are put at their places before it, and losses, moments and sums are found at theirs after it.

    static      that function as it stands (on any device: it is what the others are tested against)
    graph       recorded once for each shape, and replayed
    inductor    the network compiled by torch.compile; on CUDA, recorded as well

What is recorded is warmed up on batches of nobody with NaN for the count of positions: updates that are not finite
change nothing, so these do not either.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from projtrans.errors import ConfigError
from projtrans.model import devices
from projtrans.model.loss import cross_entropy
from projtrans.model.multihead import constrain
from projtrans.runs.checkpoint import random_tensors, restore_random
from projtrans.training.device_corpus import EMPTY_ROW, Resident, Schedule, Shape, shapes
from projtrans.training.optimizer import clip, set_rate, step
from projtrans.training.state import TrainState
from projtrans.training.updates import Objective

Mode = Literal["none", "static", "graph", "inductor"]

WARM = 3
"""Times that a function runs before it is recorded, so that libraries have their workspaces (torch's own number)."""


def mode_of(state: TrainState) -> Mode:
    """How updates are to be made; ConfigError where what is asked for cannot be."""
    training, asked = state.training, state.training.compile
    if asked == "none":
        return asked
    reasons = {
        "on a CPU there are no CUDA graphs": asked in ("auto", "graph") and state.device.type == "cpu",
        "the processes of a group add up gradients on the host": state.group.size > 1,
        "R-Drop has no fixed shape yet": training.r_drop is not None,
        "the corpus takes more than a quarter of the device's free memory": not _fits(state),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if asked == "auto" and reason:
        return "none"
    if reason:
        raise ConfigError(f"training.compile: {asked}: {reason}; set it to none")
    return "graph" if asked == "auto" else asked


def _fits(state: TrainState) -> bool:
    if state.device.type != "cuda":
        return True
    return Resident.bytes(state.examples) <= torch.cuda.mem_get_info(state.device)[0] // 4


class StaticUpdates:
    """The updates of a training in fixed shapes."""

    def __init__(self, state: Objective, mode: Mode) -> None:
        begun, device = time.perf_counter(), state.device
        self.state, self.mode = state, mode
        self.alone = state.together == 1  # a batch is an update: both are one function
        self.shapes = shapes(state.sizes_B3)
        self.network: Callable[..., Tensor] = state.model
        if mode == "inductor":
            self.network = torch.compile(state.model, dynamic=len(self.shapes) > 1)
        self.rate, self.positions, self.loss, self.norm = (torch.zeros((), device=device) for _ in range(4))
        self.gathered_5 = torch.zeros(5, dtype=torch.float64, device=device)  # as Window.totals_5
        self.rows = {shape: torch.full((shape.sentences,), EMPTY_ROW, device=device) for shape in self.shapes}
        self.examples = state.examples_of(state.counters.epoch)
        self.corpus = Resident(self.examples, device)
        self.schedule: Schedule | None = None
        self._record()
        devices.wait(device)
        self.seconds = time.perf_counter() - begun

    def begin(self, number: int) -> float:
        """Put epoch `number` on the device; returns which share of its positions fills batches up to their shapes."""
        state, examples = self.state, self.state.examples_of(number)
        if examples is not self.examples:
            self.examples = examples
            if not self.corpus.load(examples):
                self._record()
        self.schedule = Schedule(state.batches(number), examples.lengths, state.layout, self.shapes, state.device)
        return self.schedule.padding

    def update(self, first: int, last: int, rate: float) -> bool:
        """One step of the optimiser on batches `first` to `last` - 1 of the epoch, as `Trainer.update` makes it.

        False: memory was short, and nothing has changed.
        """
        assert self.schedule
        positions = self.schedule.positions if self.state.training.padding_in_loss else self.schedule.pieces
        self.rate.fill_(rate)
        self.positions.fill_(sum(positions[first:last]))
        for number in range(first, last):
            if not self._batch(self.schedule, number):
                self._reset()
                return False
        if self.finish:
            self.finish()
        self.state.window.norm = self.norm
        return True

    def _batch(self, schedule: Schedule, number: int) -> bool:
        shape, rows_B = schedule.shapes[number], schedule.rows(number)
        if schedule.planned[number]:
            self.rows[shape].copy_(rows_B)
            self.recorded[shape]()
            return True
        try:
            self._gradient(shape, rows_B)
        except (RuntimeError, MemoryError) as error:
            if devices.out_of_memory(error):
                return False
            raise
        if self.alone:
            self._finish()
        return True

    # What is recorded: operations of the device alone

    def _update(self, shape: Shape, rows_B: Tensor) -> None:
        self._gradient(shape, rows_B)
        self._finish()

    def _gradient(self, shape: Shape, rows_B: Tensor) -> None:
        """Add the gradient of one batch, and what is counted of it."""
        output, training = self.state.model.output, self.state.training
        batch = self.corpus.rectangle(rows_B, shape)
        counted_BT, someone_B1 = batch.counted_BT, (rows_B != EMPTY_ROW)[:, None]
        groups = [counted_BT, ~counted_BT & someone_B1] if training.padding_in_loss else [counted_BT]
        groups_GN = torch.stack([group.flatten() for group in groups]).float()
        h_ND, target_N = self.state.hidden(batch, self.network).flatten(0, 1), batch.target_out_BT.flatten()
        found = cross_entropy(h_ND, output.weight, output.bias, target_N, training.label_smoothing, groups_GN)
        loss = found.smoothed / self.positions
        loss.backward()
        self.loss += loss.detach()
        of_padding = found.correct[1:].sum()
        positions = someone_B1.sum() * shape.target
        numbers = [found.nll[0].detach(), found.correct[0], of_padding, groups_GN[0].sum(), positions]
        self.gathered_5 += torch.stack([number.double() for number in numbers])

    def _finish(self) -> None:
        """Make the step, or none where loss or gradient is not finite."""
        state = self.state
        set_rate(state.optimizer, self.rate)
        self.norm.copy_(clip(state.model.parameters(), state.training.clip_norm))
        skip = state.skips.judge(self.loss, self.norm)
        state.window.totals_5 += self.gathered_5.masked_fill(skip.bool(), 0.0)
        step(state.optimizer, skip)
        constrain(state.model)
        if state.average:
            state.average.update(state.model, skip)
        self._reset()

    def _reset(self) -> None:
        self.state.optimizer.zero_grad(set_to_none=self.alone)  # several batches add to one place
        self.loss.zero_()
        self.gathered_5.zero_()

    # Recording

    def _record(self) -> None:
        """Record every shape, the largest first: the others then fit into the memory that it has left."""
        state, skips = self.state, self.state.skips
        generators, kept = random_tensors(state.device), [skips.in_a_row.clone(), skips.new.clone()]
        state.model.train()
        if not self.alone:
            for parameter in state.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        self.pool = torch.cuda.graph_pool_handle() if self._captures else None
        self.positions.fill_(math.nan)
        one = self._update if self.alone else self._gradient
        try:
            self.recorded = {shape: self._recorded(partial(one, shape, rows_B)) for shape, rows_B in self.rows.items()}
            self.finish = None if self.alone else self._recorded(self._finish)
        finally:  # memory may be short
            self._reset()
            skips.in_a_row.copy_(kept[0])
            skips.new.copy_(kept[1])
            restore_random(state.device, generators)

    @property
    def _captures(self) -> bool:
        return self.mode != "static" and self.state.device.type == "cuda"

    def _recorded(self, function: Callable[[], None]) -> Callable[[], None]:
        """What does the work of the function on the device."""
        if not self._captures:
            self._warm(function)
            return function
        for group in self.state.optimizer.param_groups:
            group["capturable"] = True  # torch's AdamW wants to be told
        with torch.cuda.device(self.state.device):
            side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM):
                    self._warm(function)
            torch.cuda.current_stream().wait_stream(side)
            self._reset()
            try:
                with torch.cuda.graph(graph, pool=self.pool):
                    function()
            except RuntimeError as error:
                if devices.out_of_memory(error):
                    raise
                words = str(error).partition("\n")[0]
                raise ConfigError(f"training.compile: {self.mode}: not recorded ({words}); set it to none") from error
        return graph.replay

    def _warm(self, function: Callable[[], None]) -> None:
        self.loss.fill_(math.nan)
        function()
