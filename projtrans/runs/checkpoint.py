"""Weights and training state on disk: saved whole or not at all, loaded without unpickling anything.

Both files are safetensors with a JSON record in the header. The model file holds what translating needs, in float32;
the state file holds what training needs to resume as if it had never stopped. Knows tensors by name, not what moves
them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from projtrans import files
from projtrans.data.corpus import CorpusConfig
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, RunError
from projtrans.model.transformer import ModelConfig, Transformer
from projtrans.runs.build import build_model
from projtrans.runs.run_folder import Run

FORMAT = 1
STATE_FORMAT = 2


@dataclass(frozen=True)
class State:
    """A complete state of training."""

    record: dict[str, Any]  # counters, scores, settings: plain JSON values
    tensors: dict[str, Tensor]  # weights, moments, averages, generator states


def save_model(run: Run, weights: dict[str, Tensor], tokenizer: Tokenizer, record: dict[str, Any]) -> None:
    """Write the model file; tied weights are stored once."""
    distinct = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save(run.model_file, distinct, {"format": FORMAT, "tokenizer": tokenizer.checksum, **record})


def load_model(run: Run, tokenizer: Tokenizer) -> Transformer:
    """The trained network of a run; RunError for a model file that is missing, damaged or not of this run."""
    if not run.model_file.is_file():
        raise RunError(f"run {run.folder}: no model.safetensors in it yet; train it ('projtrans train --resume')")
    record, tensors = _load(run.model_file)
    if record.get("tokenizer") != tokenizer.checksum:
        raise RunError(f"run {run.folder}: model.safetensors was trained with another tokenizer than the one beside it")
    try:
        model = build_model(run.section("model", ModelConfig), run.section("corpus", CorpusConfig), tokenizer)
    except ConfigError as error:
        raise RunError(f"run {run.folder}: {error}") from error
    load_weights(model, tensors, run.model_file)
    return model.eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy the tensors, by name, into the model's parameters; RunError unless names and shapes are the same."""
    parameters = dict(model.named_parameters())
    for name in parameters.keys() | tensors.keys():
        if name not in parameters or name not in tensors or parameters[name].shape != tensors[name].shape:
            raise RunError(f"{source}: does not fit the configuration beside it (weight {name})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def save_state(run: Run, state: State) -> None:
    """Replace the last complete state of training."""
    _save(run.state_file, state.tensors, {"format": STATE_FORMAT, **state.record})


def load_state(run: Run, file: Path | None = None) -> State:
    """The last complete state of training, or the one in `file`; raises RunError where there is none."""
    file = file or run.state_file
    if not file.is_file():
        raise RunError(f"run {run.folder}: no checkpoint to resume from; start anew under another --run DIR")
    return State(*_load(file, STATE_FORMAT))


def save_candidate(run: Run, update: int, weights: Mapping[str, Tensor]) -> None:
    """Keep validated weights for averaging at the end."""
    distinct = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save(run.candidate_file(update), distinct, {"format": FORMAT})


def mean_of_candidates(run: Run, updates: Sequence[int]) -> dict[str, Tensor]:
    """The mean of the validated weights of these updates; raises RunError where one is missing or damaged."""
    total: dict[str, Tensor] = {}
    for update in sorted(updates):
        for name, tensor in _load(run.candidate_file(update))[1].items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(updates)).float() for name, tensor in total.items()}


def prune_candidates(run: Run, updates: Iterable[int]) -> None:
    """Remove all validated weights but those of these updates."""
    wanted = {run.candidate_file(update) for update in updates}
    for path in run.candidate_files:
        if path not in wanted:
            path.unlink()


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that the optimizer keeps, as `KEY.PARAMETER`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}.{names[parameter]}": value
        for parameter, moments in optimizer.state.items()
        for key, value in moments.items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer back what `optimizer_tensors` took."""
    fused = bool(optimizer.defaults.get("fused"))
    for name, parameter in model.named_parameters():
        moments = {key.partition(".")[0]: value for key, value in tensors.items() if key.partition(".")[2] == name}
        if moments:  # only fused optimizers count their steps on the device
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if fused or key != "step" else value for key, value in moments.items()
            }


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_random(device: torch.device, tensors: dict[str, Tensor]) -> None:
    """Put torch's generators back into the states that `random_tensors` took."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with `prefix.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _save(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    with files.replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"projtrans": json.dumps(record)})
        except SafetensorError as error:  # a full disk comes as this, not as OSError
            raise RunError(f"{path}: cannot be written ({error})") from error


def _load(path: Path, version: int = FORMAT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("projtrans", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: damaged or not a model file ({error})") from error
    if not isinstance(record, dict):
        raise RunError(f"{path}: damaged or not a model file (its record is not an object)")
    if record.get("format") != version:
        raise RunError(f"{path}: format {record.get('format')} is not the one that this version reads ({version})")
    return record, tensors
