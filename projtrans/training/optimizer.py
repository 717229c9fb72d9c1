"""The optimizer: parameter groups, learning-rate schedules, steps that can be skipped, the moving average of weights.

Knows parameters by name and shape only: no model, data or files.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from projtrans.runs.settings import OptimizerConfig

Network = TypeVar("Network", bound=nn.Module)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over three groups: matrices, vectors (no weight decay), log σ and log τ (no decay, own rate)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales = [p for name, p in named if _is_scale(name)]
    matrices = [p for name, p in named if p.ndim > 1 and not _is_scale(name)]
    vectors = [p for name, p in named if p.ndim < 2 and not _is_scale(name)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "relative": 1.0},
        {"params": vectors, "weight_decay": 0.0, "relative": 1.0},
        {"params": scales, "weight_decay": 0.0, "relative": config.sigma_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "rmsprop":
        return RMSprop(groups, {"lr": config.learning_rate, "alpha": config.beta2, "eps": 1e-7})
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=1e-9, fused=True)


def _is_scale(name: str) -> bool:
    """Whether a parameter is the logarithm of a σ or τ of attention."""
    return name.rpartition(".")[2] in ("log_sigma", "log_tau")


def rate(config: OptimizerConfig, update: int, last: int) -> float:
    """The learning rate of update 1, 2, ..., `last`; the warm-up takes at most a tenth of them."""
    warmup = min(config.warmup_updates, last // 10)
    if update < warmup:
        return config.learning_rate * update / warmup
    if config.schedule == "cosine":
        done = (update - warmup) / max(1, last - warmup)
        return config.learning_rate * (1 + math.cos(math.pi * min(1.0, done))) / 2
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(1, warmup) / update)
    return config.learning_rate


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float | Tensor) -> None:
    """Set every group's learning rate relative to this one, which may be a float32 scalar on the device."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["relative"]


def step(optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
    """One step, or nothing at all where `skip` is 1.0: a float32 scalar that is never read on the host.

    torch's fused AdamW takes it for the `found_inf` of a gradient scaler, and leaves weights, moments and step count
    alone.
    """
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


class RMSprop(torch.optim.Optimizer):
    """v = α v + (1 - α) g², θ = θ - η g / √(v + ε), as Keras has it, or nothing where `found_inf` is 1.

    torch's own adds ε to the root. Here ε = 1e-7 makes the root at least 3e-4, so that rows with small gradients do not
    take steps of full size.
    """

    found_inf: Tensor

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        skip = self.found_inf.bool()
        for group in self.param_groups:
            if skip.device.type != "cpu" or isinstance(group["lr"], Tensor):
                self._together(group, skip)
                continue
            alpha = group["alpha"]
            kept = torch.full_like(skip, alpha, dtype=torch.float64).masked_fill(skip, 1.0)
            for parameter in group["params"]:
                v = self._moment(parameter)
                g = parameter.grad.masked_fill(skip, 0.0)
                v.mul_(kept).addcmul_(g, g, value=1 - alpha)
                parameter.addcdiv_(g, v.add(group["eps"]).sqrt_(), value=-group["lr"])

    def _moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "square_avg" not in state:
            state["square_avg"] = torch.zeros_like(parameter)
        v: Tensor = state["square_avg"]
        return v

    def _together(self, group: dict[str, Any], skip: Tensor) -> None:
        """The same by kernels that take all parameters at once, for devices where launching a kernel costs more than a
        small parameter's arithmetic; overwrites the gradients."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        gradients = [parameter.grad.masked_fill_(skip, 0.0) for parameter in parameters]
        squares = [self._moment(parameter) for parameter in parameters]
        kept = torch.full_like(skip, group["alpha"], dtype=parameters[0].dtype).masked_fill_(skip, 1.0)
        torch._foreach_mul_(squares, kept)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(gradients, group["lr"])  # `value=` takes no scalar of the device
        torch._foreach_addcdiv_(parameters, gradients, roots, value=-1.0)


class Average(Generic[Network]):
    """A model whose parameters are the exponential moving average of another's (Polyak & Juditsky 1992)."""

    def __init__(self, model: Network, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        device = next(self.model.parameters()).device
        self.updates = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, model: nn.Module, skip: Tensor | float = 0.0) -> None:
        """Average in the parameters after one more update, or nothing where `skip` is 1; the first ones weigh more."""
        taken = 1.0 - skip
        self.updates += taken
        decay = (self.updates / (self.updates + 10)).clamp(max=self.decay)
        weight = (1 - decay) * taken
        ours, current = ([parameter.detach() for parameter in some.parameters()] for some in (self.model, model))
        if weight.device.type == "cpu":
            torch._foreach_lerp_(ours, current, [weight.to(parameter.dtype) for parameter in current])
            return
        apart = torch._foreach_sub(current, ours)  # with a tensor as weight, lerp would launch one kernel per parameter
        torch._foreach_mul_(apart, weight.to(current[0].dtype))
        torch._foreach_add_(ours, apart)


def clip(parameters: Iterable[Tensor], limit: float | None) -> Tensor:
    """Scale the gradients down to a total norm of `limit`; returns their norm before, a scalar tensor."""
    if limit is None:
        return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, limit)
