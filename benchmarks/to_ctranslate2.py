"""A trained run with standard attention as a CTranslate2 model, to measure against: `to_ctranslate2.py RUN DIRECTORY`.

Needs `pip install --no-deps ctranslate2==4.8.0`. For models like those of the configuration `tatoeba`: pre-norm,
sinusoidal positions, one vocabulary. (Projection attention has no place in CTranslate2: in cross-attention it
normalises queries before the heads are split.)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerSpec
from safetensors.numpy import load_file

from projtrans.model.transformer import sinusoids
from projtrans.runs.run_folder import Run, open_run

LONGEST = 512
"""Positions that the model is given."""


def put(spec: Any, weights: dict[str, np.ndarray], name: str) -> None:
    """A linear layer or a norm."""
    if hasattr(spec, "gamma"):
        spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
    else:
        spec.weight, spec.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]


def put_attention(spec: Any, weights: dict[str, np.ndarray], name: str, *, cross: bool) -> None:
    """[W_q; W_k; W_v] is one matrix of ours; of cross-attention the queries' part stands apart there."""
    put(spec.layer_norm, weights, f"{name}.norm")
    matrix, bias = weights[f"{name}.attention.qkv.weight"], weights[f"{name}.attention.qkv.bias"]
    parts = [slice(0, len(bias) // 3), slice(len(bias) // 3, None)] if cross else [slice(None)]
    for linear, part in zip(spec.linear, parts, strict=False):
        linear.weight, linear.bias = matrix[part], bias[part]
    put(spec.linear[-1], weights, f"{name}.attention.output")


def convert(run: Run, folder: Path) -> None:
    """Write the model; its tokens are our ids as text."""
    model, weights = run.raw_config["model"], load_file(run.model_file)
    layers = (model["layers"]["encoder"], model["layers"]["decoder"])
    spec = TransformerSpec.from_config(layers, model["heads"], pre_norm=True)
    positions = sinusoids(LONGEST, model["width"]).numpy()
    embedding = weights.get("source_embedding.weight", weights.get("target_embedding.weight"))
    if embedding is None:
        embedding = weights["output.weight"]
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = weights["output.bias"]
    for side, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        side.position_encodings.encodings = positions
        put(side.layer_norm, weights, f"{name}_norm")
        for number, layer in enumerate(side.layer):
            put_attention(layer.self_attention, weights, f"{name}.{number}.self_attention", cross=False)
            if name == "decoder":
                put_attention(layer.attention, weights, f"{name}.{number}.cross", cross=True)
            put(layer.ffn.layer_norm, weights, f"{name}.{number}.feedforward.norm")
            put(layer.ffn.linear_0, weights, f"{name}.{number}.feedforward.expand")
            put(layer.ffn.linear_1, weights, f"{name}.{number}.feedforward.contract")
    pieces = [str(number) for number in range(len(embedding))]
    tokenizer = run.tokenizer()
    pieces[tokenizer.bos_id], pieces[tokenizer.eos_id] = "<s>", "</s>"
    pieces[tokenizer.pad_id], pieces[tokenizer.unk_id] = "<blank>", "<unk>"
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.layer_norm_epsilon = 1e-6
    spec.validate()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def main() -> None:
    """Parse and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    convert(open_run(given.run), given.folder)


if __name__ == "__main__":
    main()
