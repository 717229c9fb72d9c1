"""The command `translate`."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from projtrans.cli import options as o
from projtrans.cli.shell import noting
from projtrans.cli.translators import searching
from projtrans.errors import ConfigError, DataError
from projtrans.inference.output_formats import FORMATS

if TYPE_CHECKING:
    from projtrans.cli.prompt import Opener
    from projtrans.inference.engine import Engine
    from projtrans.inference.translator import SentenceTranslator
    from projtrans.runs.run_folder import Run


def translate(
    text: o.Text = None,
    model: o.Model = None,
    input: o.Input = None,
    output: o.Output = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    n_best: o.NBest = 1,
    min_length: o.MinLength = None,
    max_length: o.MaxLength = None,
    no_repeat_ngram: o.NoRepeatNgram = None,
    prefix: o.Prefix = None,
    sample: o.Sample = None,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    seed: o.SampleSeed = None,
    format: o.Format = "text",
    token_scores: o.TokenScores = False,
    alignment: o.Alignment = False,
    copy_unknown: o.CopyUnknown = False,
    sentences: o.Sentences = False,
    on_error: o.OnError = "fail",
    buffer: o.Buffer = 0.0,
    resume: o.ResumeTranslation = False,
    interactive: o.Interactive = False,
    engine: o.Engine = "auto",
    precision: o.Precision = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Translate arguments, a file or a stream, or at a prompt.

    With TEXT, one translation per line. With --input or input from a pipe, one output line per input line, in order,
    blank lines kept. Otherwise, on a terminal, an interactive prompt.

    Example: printf 'Hello.\\n' | projtrans translate
    """
    if text and (input or interactive):
        raise ConfigError("translate: TEXT excludes --input and --interactive; leave one of them out")
    if sys.stdin is None and not text and input in (None, "-"):
        raise DataError("standard input: closed; give TEXT or --input FILE")
    prompted = interactive or (not text and input is None and sys.stdin.isatty())
    if not 0 <= buffer < math.inf:
        raise ConfigError(f"--buffer {buffer:g}: must be seconds, 0 or more")
    if resume and (prompted or None in (input, output) or "-" in (input, output)):
        raise ConfigError("--resume: works from file to file; give --input FILE and --output FILE")
    _check_format(format, {f"--n-best {n_best}": n_best > 1, "--token-scores": token_scores, "--alignment": alignment})
    if alignment or copy_unknown:
        engine = _aligning(engine, precision, "--alignment" if alignment else "--copy-unknown")
    flags = {"beam_size": beam_size, "length_penalty": length_penalty, "no_repeat_ngram": no_repeat_ngram}
    flags |= {"min_length": min_length, "max_length": max_length}
    flags |= {"sample": sample, "temperature": temperature, "top_k": top_k, "seed": seed}
    options: dict[str, Any] = {"n_best": n_best, "prefix": prefix or "", "token_scores": token_scores}
    options |= {"alignment": alignment, "copy_unknown": copy_unknown, "sentences": sentences}

    def asked(translator: "SentenceTranslator") -> "SentenceTranslator":
        return searching(translator, flags).with_options(**options)

    opened = _opener(model, engine, precision, asked, device=device, threads=threads, note=noting(quiet))
    if prompted:
        from projtrans.cli.prompt import prompt

        prompt(opened, quiet)
        return
    run, translator = opened(None, None)
    from projtrans.cli import filter as filtering

    filter = filtering.Filter(translator, format, on_error)
    if text:
        filtering.filter_texts(filter, text, output, quiet)
    else:
        filtering.filter_lines(filter, run, input, output, buffer=buffer, resume=resume, quiet=quiet)


def _check_format(format: str, given: dict[str, bool]) -> None:
    """Raise ConfigError for a flag whose result the format has no room for."""
    detailed = [name for name, one in FORMATS.items() if one.detailed]
    for flag in (flag for flag, used in given.items() if used and format not in detailed):
        raise ConfigError(f"{flag}: {format} holds the best translation alone; add --format {' or '.join(detailed)}")


def _opener(
    model: Path | None,
    engine: "Engine",
    precision: str | None,
    asked: "Callable[[SentenceTranslator], SentenceTranslator]",
    **machine: Any,
) -> "Opener":
    """Opens the run of the command, or another one, with the options of its flags."""
    from projtrans.inference.engine import open_translator
    from projtrans.runs.run_folder import open_run

    def opened(folder: Path | None, other: Literal["torch"] | None) -> "tuple[Run, SentenceTranslator]":
        run = open_run(folder or model)
        kept = None if other and precision == "int8" else precision
        return run, asked(open_translator(run, other or engine, precision=kept, **machine))

    return opened


def _aligning(engine: str, precision: str | None, flag: str) -> Literal["torch"]:
    """The engine that aligns."""
    if engine == "onnx" or precision == "int8":
        raise ConfigError(f"{flag}: an export has no attention weights to read; leave --engine and --precision out")
    return "torch"
