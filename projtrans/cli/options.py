"""The options of the commands, each described once. Knows nothing of what they do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from projtrans.inference.output_formats import FORMATS

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]


def _option(
    text: str, *names: str, metavar: str | None = None, minimum: int | None = None, maximum: int | None = None
) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        *names, help=text, metavar=metavar, min=minimum, max=maximum, show_default=False
    )
    return info


def _argument(text: str, metavar: str) -> typer.models.ArgumentInfo:
    info: typer.models.ArgumentInfo = typer.Argument(help=text, metavar=metavar, show_default=False)
    return info


# Every command
Quiet = Annotated[bool, _option("Print nothing but data and errors.", "--quiet", "-q")]

Threads = Annotated[int | None, _option("Processor threads [default: all cores].", metavar="N", minimum=1, maximum=256)]

Device = Annotated[str, _option("auto, cpu, cuda or cuda:N [default: auto].", metavar="DEVICE")]

# Configuration and folders
Config = Annotated[str | None, _option("A YAML file, or the name of a shipped configuration.", metavar="FILE|NAME")]

Set = Annotated[list[str] | None, _option("Change one setting; repeatable.", "--set", metavar="SECTION.KEY=VALUE")]

Data = Annotated[Path | None, _option("A prepared folder [default: the configuration's].", metavar="DIR")]

Run = Annotated[Path | None, _argument("A run folder [default: runs/latest].", "RUN")]

# prepare
Corpus = Annotated[
    str | None,
    _argument("phrasebook (bundled; the default), tatoeba-spa-eng, or a .tsv or .tsv.gz file.", "CORPUS"),
]

OutputFolder = Annotated[Path | None, _option("Folder to write [default: data/NAME].", "--output", "-o", metavar="DIR")]

_SIDES = "split ready-made, as two files (.gz too)."

TrainSides = Annotated[tuple[Path, Path] | None, _option(f"Training {_SIDES}", "--train", metavar="SRC TGT")]

ValidSides = Annotated[tuple[Path, Path] | None, _option(f"Validation {_SIDES}", "--valid", metavar="SRC TGT")]

TestSides = Annotated[tuple[Path, Path] | None, _option(f"Test {_SIDES}", "--test", metavar="SRC TGT")]

Archive = Annotated[
    Path | None,
    _option("A local Tatoeba archive, instead of a download (PROJTRANS_TATOEBA does the same).", metavar="FILE"),
]

Direction = Annotated[str | None, _option("forward, backward, en-es or es-en.", metavar="WAY")]

Split = Annotated[str | None, _option("grouped (nothing leaks) or random (the paper's).", metavar="HOW")]

SplitSeed = Annotated[int | None, _option("Seed of the split.", "--seed", metavar="N")]

TokenizerKind = Annotated[str | None, _option("bpe, unigram or word.", "--tokenizer", metavar="KIND")]

VocabSize = Annotated[int | None, _option("Pieces, special ones included.", metavar="N")]

PrepareThreads = Annotated[
    int | None, _option("As in every command; preparing takes one.", "--threads", metavar="N", minimum=1)
]

Force = Annotated[bool, _option("Prepare anew over what is there.", "--force")]

# train
RunFolder = Annotated[Path | None, _option("The run folder [default: runs/CONFIG-KIND].", "--run", metavar="DIR")]

Attention = Annotated[str | None, _option("standard or projection.", metavar="KIND")]

SigmaSelf = Annotated[float | None, _option("Initial σ of self-attention (projection).", metavar="X")]

SigmaCross = Annotated[float | None, _option("Initial σ of cross-attention (projection).", metavar="X")]

Seed = Annotated[int | None, _option("Seed of weights, data order and dropout.", metavar="N")]

MaxMinutes = Annotated[float | None, _option("Stop after so many minutes (training.minutes).", metavar="N")]

Resume = Annotated[bool, _option("Go on with a run [default: runs/latest].", "--resume")]

AllowChanges = Annotated[
    bool,
    _option("With --resume: go on with other settings than before, where the weights can.", "--allow-changes"),
]

DryRun = Annotated[
    bool,
    _option("Train nothing: print size, batches, peak memory and estimated time, measured in a minute.", "--dry-run"),
]

# evaluate and translate
BeamSize = Annotated[
    int | None,
    _option("Hypotheses kept a step; 1 is greedy [default: the run's, 5 unless set].", metavar="N", minimum=1),
]

LengthPenalty = Annotated[
    float | None,
    _option("Length penalty ((5 + length) / 6)^α (GNMT) [default: the run's, 1.0 unless set].", metavar="α"),
]

ScoredSplit = Annotated[Literal["test", "valid"], _option("test or valid [default: test].")]

Source = Annotated[Path | None, _option("Own sentences, one a line, instead of a split.", metavar="FILE")]

Reference = Annotated[Path | None, _option("Their translations, line by line.", metavar="FILE")]

Json = Annotated[bool, _option("One JSON object on standard output instead of the table.", "--json")]

Hypotheses = Annotated[Path | None, _option("Write the translations, one a line.", metavar="FILE")]

JsonFile = Annotated[Path | None, _option("Write the JSON object.", "--output", metavar="FILE")]

Text = Annotated[list[str] | None, _argument("Sentences to translate.", "TEXT")]

Model = Annotated[Path | None, _option("A run folder [default: runs/latest].", metavar="RUN")]

Input = Annotated[str | None, _option("Translate a file line by line; - is standard input.", metavar="FILE|-")]

Output = Annotated[str | None, _option("Write to a file; - is standard output.", metavar="FILE|-")]

NBest = Annotated[
    int, _option("Translations a sentence [default: 1]; more than 1 with tsv or json.", metavar="N", minimum=1)
]

Format = Annotated[
    FormatName,
    _option("; ".join(f"{name}: {format.help}" for name, format in FORMATS.items()) + " [default: text]."),
]

Alignment = Annotated[
    bool,
    _option(
        "Align words by cross-attention: pairs source-target from 0; with tsv or json, torch engine.", "--alignment"
    ),
]

CopyUnknown = Annotated[
    bool,
    _option(
        "Copy emoji, other scripts, addresses and long numbers (torch engine; docs/translate.md).", "--copy-unknown"
    ),
]

Sentences = Annotated[
    bool,
    _option("Translate every sentence of a line by itself, not only where the line is too long.", "--sentences"),
]

MinLength = Annotated[
    int | None,
    _option("No end before so many pieces, the end counted [default: the run's, 1 unless set].", metavar="N"),
]

MaxLength = Annotated[
    int | None,
    _option("At most so many pieces, the end counted [default: the run's, by source length unless set].", metavar="N"),
]

NoRepeatNgram = Annotated[
    int | None,
    _option("No run of N pieces twice in a translation; 0 allows all [default: the run's, 0 unless set].", metavar="N"),
]

Prefix = Annotated[
    str | None,
    _option("What every translation begins with; a space at its end closes its last word.", "--prefix", metavar="TEXT"),
]

Sample = Annotated[
    bool | None,
    _option(
        "Draw translations at random, --n-best N independent ones, instead of searching for the best [default: the "
        "run's, --no-sample unless set].",
        "--sample/--no-sample",
    ),
]

Temperature = Annotated[
    float | None,
    _option(
        "Of --sample: below 1 more probable pieces, above 1 others [default: the run's, 1 unless set].", metavar="T"
    ),
]

TopK = Annotated[
    int | None,
    _option("Of --sample: from the K most probable pieces; 0: all [default: the run's, 0 unless set].", metavar="K"),
]

SampleSeed = Annotated[
    int | None,
    _option("Of --sample: the same gives the same samples [default: the run's, 1 unless set].", "--seed", metavar="N"),
]

TokenScores = Annotated[
    bool, _option("With tsv or json: the pieces of every translation and their log-probabilities.", "--token-scores")
]

OnError = Annotated[
    Literal["fail", "blank", "copy"],
    _option(
        "What a line gives that cannot be translated, one that is not UTF-8 say: fail ends with its number; blank: an "
        "empty line, copy: itself, each with a warning [default: fail].",
    ),
]

Buffer = Annotated[
    float,
    _option(
        "How long a line from a pipe may wait for others to be translated with it; 0 takes what is there [default: 0].",
        metavar="SECONDS",
    ),
]

ResumeTranslation = Annotated[
    bool,
    _option("From --input FILE to --output FILE: go on where that was stopped.", "--resume"),
]

Interactive = Annotated[bool, _option("Prompt for sentences, with history.", "--interactive")]

Engine = Annotated[
    Literal["auto", "torch", "onnx"],
    _option(
        "torch, onnx (needs projtrans[fast]), or auto: onnx where the run was exported and no GPU is there "
        "[default: auto]."
    ),
]

Precision = Annotated[
    Literal["float32", "bf16", "int8"] | None,
    _option(
        "float32, bf16 (torch; fast where the processor multiplies it) or int8 (onnx) [default: float32, or the most "
        "exact export]."
    ),
]

# export
GraphFormat = Annotated[Literal["onnx"], _option("onnx.", "--format")]

Precisions = Annotated[
    list[str] | None,
    _option("float32, or int8 weights; repeatable [default: float32].", "--precision", metavar="P"),
]

# compare
Runs = Annotated[list[Path], _argument("Run folders, the baseline first; runs of one side in any order.", "RUN")]

DataFolders = Annotated[
    list[Path] | None,
    _option(
        "A prepared folder, repeatable: a run takes the one with its tokenizer [default: its own].",
        "--data",
        metavar="DIR",
    ),
]

Prompts = Annotated[
    list[str] | None,
    _option(
        "Translate this side by side; repeatable [default: six sentences of ours, of which the first English one is "
        "the paper's; six of the test split where its languages are not known].",
        "--prompt",
        metavar="TEXT",
    ),
]

Figures = Annotated[
    list[Path] | None,
    _option(
        "Draw loss and accuracy per epoch (Figure 2 of the paper) into a .png or .svg file; repeatable. Needs "
        "projtrans[plots].",
        "--figure",
        metavar="FILE",
    ),
]

ReportFormat = Annotated[
    Literal["text", "markdown", "json"],
    _option("text: tables; markdown; json: one object [default: text].", "--format"),
]
