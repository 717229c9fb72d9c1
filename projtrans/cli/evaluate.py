"""The command `evaluate`."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from projtrans import files
from projtrans.cli import options as o
from projtrans.cli.translators import run_translator
from projtrans.errors import ConfigError, DataError

if TYPE_CHECKING:
    from projtrans.data.corpus import Pair
    from projtrans.runs.run_folder import Run


def evaluate(
    run: o.Run = None,
    data: o.Data = None,
    split: o.ScoredSplit = "test",
    source: o.Source = None,
    reference: o.Reference = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    json: o.Json = False,
    hypotheses: o.Hypotheses = None,
    output: o.JsonFile = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Score a run: loss, accuracy, and corpus metrics such as BLEU.

    Example: projtrans evaluate --json
    """
    from projtrans.cli import console, displays
    from projtrans.evaluation import evaluate as evaluating
    from projtrans.runs.run_folder import open_run

    if (source is None) != (reference is None):
        raise ConfigError("evaluate: --source and --reference belong together; give both")
    opened = open_run(run)
    pairs = _own_pairs(source, reference) if source and reference else _split_pairs(opened, data, split)
    flags = {"beam_size": beam_size, "length_penalty": length_penalty}
    translator = run_translator(opened, device, threads, flags)
    name = str(source or split)
    with console.Bar("evaluating", quiet) as bar:
        result, translations = evaluating.evaluate(translator, pairs, run=str(opened.folder), split=name, report=bar)
    if hypotheses:
        files.write_lines(hypotheses, translations)
    if output:
        files.write_json(output, result.to_json())
    if json:
        typer.echo(jsonlib.dumps(result.to_json(), ensure_ascii=False, indent=2))
    else:
        displays.print_scores(result)


def _own_pairs(source: Path, reference: Path) -> "list[Pair]":
    from projtrans.data.corpus import read_parallel

    pairs = list(read_parallel(source, reference))
    if not pairs:
        raise DataError(f"{source}: holds no sentence pairs")
    return pairs


def _split_pairs(run: "Run", data: Path | None, split: str) -> "list[Pair]":
    from projtrans.data.data_folder import read_split
    from projtrans.runs.run_setup import run_data

    return read_split(run_data(run, [data] if data else []), split)
