"""Updates that a device can replay: fixed shapes, a resident corpus, and everything that moves at one place in memory.

On a GPU the network of a paper's size is so small that launching its kernels takes longer than computing them. A CUDA
graph launches all kernels of an update at once; it can hold nothing that the host decides or reads, and no address that
changes. So here an update is a function of the device alone: rows of the resident corpus, the learning rate and the
count of positions are written to their places before it, and losses, moments and sums are found at theirs after it.

    static      that function as it is (on any device: the graphs are tested against it)
    graph       recorded once for each shape, and replayed

The function is warmed up on empty batches with NaN for the count of positions: updates that are not finite change
nothing, so neither do these.
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
from projtrans.model.batching import Batches, Examples
from projtrans.model.loss import cross_entropy
from projtrans.runs.checkpoint import random_tensors, restore_random
from projtrans.runs.settings import TrainingConfig
from projtrans.training.device_corpus import EMPTY_ROW, Resident, Schedule, Shape, shapes
from projtrans.training.epochs import EpochPlan
from projtrans.training.events import Recorded, Report
from projtrans.training.optimizer import clip, set_rate
from projtrans.training.state import TrainingState
from projtrans.training.updates import Objective, ShortOfMemory, refuse_single_pair

Mode = Literal["none", "static", "graph"]

WARM = 3
"""Times that a function runs before it is recorded, so that libraries have their workspaces (torch's own number)."""


def choose_mode(training: TrainingConfig, device: torch.device, processes: int, examples: Examples) -> Mode:
    """How to make updates; raises ConfigError where `training.compile` asks for what cannot be."""
    asked = training.compile
    if asked == "none":
        return asked
    reasons = {
        "a CPU has no CUDA graphs": asked in ("auto", "graph") and device.type == "cpu",
        "several processes sum their gradients on the host": processes > 1,
        "R-Drop has no fixed shapes yet": training.r_drop is not None,
        "the corpus takes more than a quarter of the device's free memory": not _fits(examples, device),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if asked == "auto" and reason:
        return "none"
    if reason:
        raise ConfigError(f"training.compile: {asked}: {reason}; set it to none")
    return "graph" if asked == "auto" else asked


def _fits(examples: Examples, device: torch.device) -> bool:
    return device.type != "cuda" or Resident.bytes(examples) <= torch.cuda.mem_get_info(device)[0] // 4


class StaticUpdates:
    """Updates in fixed shapes, recorded when they are made: for the plan and the tensors of the state as they are now.

    report: told once that they are recorded. Raises ShortOfMemory.
    """

    def __init__(self, state: TrainingState, plan: EpochPlan, objective: Objective, mode: Mode, report: Report) -> None:
        begun, device = time.perf_counter(), state.device
        self.state, self.plan, self.objective, self.mode, self.report = state, plan, objective, mode, report
        self.training = objective.training
        self.captures = mode == "graph" and device.type == "cuda"
        self.alone = plan.together == 1  # a batch is an update: both are one function
        self.shapes = shapes(plan.sizes_B3)
        self.rate, self.positions, self.loss, self.norm = (torch.zeros((), device=device) for _ in range(4))
        self.gathered_5 = torch.zeros(5, dtype=torch.float64, device=device)  # as SinceReport.totals_5
        self.rows = {shape: torch.full((shape.sentences,), EMPTY_ROW, device=device) for shape in self.shapes}
        self.examples = plan.examples_of(state.counters.epoch)
        self.schedule: Schedule | None = None
        self._within_memory(self.shapes[0], self._load)
        devices.wait(device)
        self.seconds: float | None = time.perf_counter() - begun  # None once reported

    def _load(self) -> None:
        self.corpus = Resident(self.examples, self.state.device)
        self._record()

    def begin(self, number: int, batches: Batches) -> None:
        """Put epoch `number` on the device."""
        self._within_memory(self.shapes[0], partial(self._begin, number, batches))

    def _begin(self, number: int, batches: Batches) -> None:
        plan, examples = self.plan, self.plan.examples_of(number)
        if examples is not self.examples:
            self.examples = examples
            if not self.corpus.load(examples):
                self._record()
        self.schedule = Schedule(batches, examples.lengths, plan.layout, self.shapes, self.state.device)
        if self.seconds is not None:
            self.report(Recorded(self.mode, len(self.shapes), self.schedule.padding, self.seconds))
            self.seconds = None

    def update(self, first: int, last: int, rate: float) -> None:
        """One step of the optimizer on batches `first` to `last` - 1 of the epoch, as `PlainUpdates` makes it."""
        assert self.schedule
        positions = self.schedule.positions if self.training.padding_in_loss else self.schedule.tokens
        self.rate.fill_(rate)
        self.positions.fill_(sum(positions[first:last]))
        for number in range(first, last):
            self._batch(self.schedule, number)
        if self.finish:
            self.finish()
        self.state.recent.norm = self.norm

    def _batch(self, schedule: Schedule, number: int) -> None:
        shape, rows_B = schedule.shapes[number], schedule.rows(number)
        if schedule.planned[number]:
            self.rows[shape].copy_(rows_B)
            self.recorded[shape]()
            return
        self._within_memory(shape, partial(self._gradient, shape, rows_B))
        if self.alone:
            self._finish()

    def _within_memory(self, shape: Shape, function: Callable[[], None]) -> None:
        """Call the function; ShortOfMemory, or ConfigError for a single pair, where it runs out of memory."""
        try:
            return function()
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
        self._reset()
        refuse_single_pair(self.state.device, *shape)
        raise ShortOfMemory  # outside of `except`, which holds the tensors of the failed attempt

    # What is recorded: operations of the device alone

    def _update(self, shape: Shape, rows_B: Tensor) -> None:
        self._gradient(shape, rows_B)
        self._finish()

    def _gradient(self, shape: Shape, rows_B: Tensor) -> None:
        """Add the gradient of one batch, and its loss and counts."""
        output, training = self.state.model.output, self.training
        batch = self.corpus.padded_batch(rows_B, shape)
        counted_BT, filled_B1 = batch.counted_BT, (rows_B != EMPTY_ROW)[:, None]
        groups = [counted_BT, ~counted_BT & filled_B1] if training.padding_in_loss else [counted_BT]
        groups_GN = torch.stack([group.flatten() for group in groups]).float()
        h_ND, target_N = self.objective.hidden(batch).flatten(0, 1), batch.target_out_BT.flatten()
        found = cross_entropy(h_ND, output.weight, output.bias, target_N, training.label_smoothing, groups_GN)
        loss = found.smoothed / self.positions
        loss.backward()
        self.loss += loss.detach()
        of_padding = found.correct[1:].sum()
        positions = filled_B1.sum() * shape.target
        numbers = [found.nll[0].detach(), found.correct[0], of_padding, groups_GN[0].sum(), positions]
        self.gathered_5 += torch.stack([number.double() for number in numbers])

    def _finish(self) -> None:
        """Make the step, or none where loss or gradient is not finite."""
        state = self.state
        set_rate(state.optimizer, self.rate)
        self.norm.copy_(clip(state.model.parameters(), self.training.clip_norm))
        skip = state.move(self.loss, self.norm)
        state.recent.totals_5 += self.gathered_5.masked_fill(skip.bool(), 0.0)
        self._reset()

    def _reset(self) -> None:
        self.state.optimizer.zero_grad(set_to_none=self.alone)  # several batches add to one place
        self.loss.zero_()
        self.gathered_5.zero_()

    # Recording

    def _record(self) -> None:
        """Record every shape, the largest first: the others then fit into the memory that it has left."""
        state, skips = self.state, self.state.skips
        generators, kept = random_tensors(state.device), (skips.in_a_row.clone(), skips.new.clone())
        state.model.train()
        if not self.alone:
            for parameter in state.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        self.pool = torch.cuda.graph_pool_handle() if self.captures else None
        self.positions.fill_(math.nan)
        one = self._update if self.alone else self._gradient
        self.recorded: dict[Shape, Callable[[], None]] = {}
        try:
            for shape, rows_B in self.rows.items():
                self._within_memory(shape, partial(self._record_shape, shape, partial(one, shape, rows_B)))
            self.finish = None if self.alone else self._recorded(self._finish)
        finally:
            self._reset()
            skips.in_a_row.copy_(kept[0])
            skips.new.copy_(kept[1])
            restore_random(state.device, generators)

    def _record_shape(self, shape: Shape, function: Callable[[], None]) -> None:
        self.recorded[shape] = self._recorded(function)

    def _recorded(self, function: Callable[[], None]) -> Callable[[], None]:
        """A function that does the same work on the device."""
        if not self.captures:
            self._warm(function)
            return function
        for group in self.state.optimizer.param_groups:
            group["capturable"] = True  # torch's AdamW has to know
        with torch.cuda.device(self.state.device):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM):
                    self._warm(function)
            torch.cuda.current_stream().wait_stream(stream)
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
