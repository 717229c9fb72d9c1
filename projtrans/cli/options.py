"""The options and arguments of the commands, each declared once. Knows nothing of what the commands do with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from projtrans.cli.completion import Complete, choices, configurations, data_folders, runs, settings
from projtrans.data import corpora
from projtrans.inference.output_formats import FORMATS

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]


def _option(
    text: str,
    *names: str,
    metavar: str | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
    complete: Complete | None = None,
) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        *names, help=text, metavar=metavar, min=minimum, max=maximum, show_default=False, autocompletion=complete
    )
    return info


def _argument(text: str, metavar: str, complete: Complete | None = None) -> typer.models.ArgumentInfo:
    info: typer.models.ArgumentInfo = typer.Argument(
        help=text, metavar=metavar, show_default=False, autocompletion=complete
    )
    return info


# Every command
Quiet = Annotated[bool, _option("Print only data and errors.", "--quiet", "-q")]
Threads = Annotated[int | None, _option("CPU threads [default: all cores].", metavar="N", minimum=1, maximum=256)]
Device = Annotated[str, _option("auto, cpu, cuda or cuda:N [default: auto].", metavar="DEVICE")]

# Configuration and folders
Config = Annotated[
    str | None,
    _option("A YAML file or the name of a shipped configuration.", metavar="FILE|NAME", complete=configurations),
]
Set = Annotated[
    list[str] | None,
    _option("Change one setting; repeatable.", "--set", metavar="SECTION.KEY=VALUE", complete=settings),
]
Data = Annotated[
    Path | None,
    _option("Prepared data folder [default: that of the configuration].", metavar="DIR", complete=data_folders),
]
Run = Annotated[Path | None, _argument("Run folder [default: runs/latest].", "RUN", runs)]

# prepare
Corpus = Annotated[
    str | None,
    _argument(f"{corpora.CHOICES} [default: {corpora.BUNDLED}].", "CORPUS"),
]
OutputFolder = Annotated[Path | None, _option("Output folder [default: data/NAME].", "--output", "-o", metavar="DIR")]
_SIDES = "split, ready-made, as two line-aligned files (.gz too)."
TrainSides = Annotated[tuple[Path, Path] | None, _option(f"Training {_SIDES}", "--train", metavar="SRC TGT")]
ValidSides = Annotated[tuple[Path, Path] | None, _option(f"Validation {_SIDES}", "--valid", metavar="SRC TGT")]
TestSides = Annotated[tuple[Path, Path] | None, _option(f"Test {_SIDES}", "--test", metavar="SRC TGT")]
Archive = Annotated[
    Path | None, _option("Local Tatoeba archive, in place of a download (or set PROJTRANS_TATOEBA).", metavar="FILE")
]
Direction = Annotated[
    str | None,
    _option(f"{', '.join(get_args(corpora.Direction))}.", metavar="WAY", complete=choices("corpus.direction")),
]
Split = Annotated[
    str | None,
    _option("grouped (no leakage) or random (as in the paper).", metavar="HOW", complete=choices("corpus.split")),
]
SplitSeed = Annotated[int | None, _option("Seed of the split.", "--seed", metavar="N")]
TokenizerKind = Annotated[
    str | None, _option("bpe, unigram or word.", "--tokenizer", metavar="KIND", complete=choices("corpus.tokenizer"))
]
VocabSize = Annotated[int | None, _option("Vocabulary size, special tokens included.", metavar="N")]
PrepareThreads = Annotated[
    int | None, _option("Accepted as in every command; preparing uses one thread.", "--threads", metavar="N", minimum=1)
]
Force = Annotated[bool, _option("Overwrite a folder that was prepared differently.", "--force")]

# train
RunFolder = Annotated[
    Path | None, _option("Run folder [default: runs/CONFIG-KIND].", "--run", metavar="DIR", complete=runs)
]
Attention = Annotated[
    str | None, _option("standard or projection.", metavar="KIND", complete=choices("model.attention.kind"))
]
SigmaSelf = Annotated[float | None, _option("Initial σ of self-attention (projection).", metavar="X")]
SigmaCross = Annotated[float | None, _option("Initial σ of cross-attention (projection).", metavar="X")]
Seed = Annotated[int | None, _option("Seed of initialization, data order and dropout.", metavar="N")]
MaxMinutes = Annotated[float | None, _option("Stop after N minutes (training.minutes).", metavar="N")]
Resume = Annotated[bool, _option("Resume a run [default: runs/latest].", "--resume")]
AllowChanges = Annotated[
    bool,
    _option("With --resume: allow changed settings that the saved weights are compatible with.", "--allow-changes"),
]
DryRun = Annotated[
    bool,
    _option(
        "Do not train: print model size, batches, peak memory and estimated time, measured in about a minute.",
        "--dry-run",
    ),
]

# evaluate and translate
BeamSize = Annotated[
    int | None, _option("Beam size; 1 is greedy [default: the run's, 5 unless set].", metavar="N", minimum=1)
]
LengthPenalty = Annotated[
    float | None,
    _option("α of the GNMT length penalty ((5 + length) / 6)^α [default: the run's, 1.0 unless set].", metavar="α"),
]
ScoredSplit = Annotated[Literal["test", "valid"], _option("test or valid [default: test].")]
Source = Annotated[
    Path | None, _option("Your own source sentences, one per line, in place of a split.", metavar="FILE")
]
Reference = Annotated[Path | None, _option("Their reference translations, line by line.", metavar="FILE")]
Json = Annotated[bool, _option("Print one JSON object in place of the table.", "--json")]
Hypotheses = Annotated[Path | None, _option("Write the translations, one per line.", metavar="FILE")]
JsonFile = Annotated[Path | None, _option("Write the JSON object to a file.", "--output", metavar="FILE")]
Text = Annotated[list[str] | None, _argument("Sentences to translate.", "TEXT")]
Model = Annotated[Path | None, _option("Run folder [default: runs/latest].", metavar="RUN", complete=runs)]
Input = Annotated[str | None, _option("Translate a file line by line; - is standard input.", metavar="FILE|-")]
Output = Annotated[str | None, _option("Write to a file; - is standard output.", metavar="FILE|-")]
NBest = Annotated[
    int, _option("Translations per sentence [default: 1]; more than 1 needs tsv or json.", metavar="N", minimum=1)
]
Format = Annotated[
    FormatName,
    _option("; ".join(f"{name}: {format.help}" for name, format in FORMATS.items()) + " [default: text]."),
]
Alignment = Annotated[
    bool,
    _option(
        "Add word alignments (source-target pairs from 0) from cross-attention; needs tsv or json, torch engine.",
        "--alignment",
    ),
]
CopyUnknown = Annotated[
    bool,
    _option(
        "Copy emoji, other scripts, addresses and long numbers (torch engine; see docs/translate.md).", "--copy-unknown"
    ),
]
Sentences = Annotated[
    bool, _option("Translate each sentence of a line separately, not only where the line is too long.", "--sentences")
]
MinLength = Annotated[
    int | None, _option("Minimum length in tokens, EOS included [default: the run's, 1 unless set].", metavar="N")
]
MaxLength = Annotated[
    int | None,
    _option("Maximum length in tokens, EOS included [default: the run's, by source length unless set].", metavar="N"),
]
NoRepeatNgram = Annotated[
    int | None,
    _option("Never repeat an n-gram of N tokens; 0 turns this off [default: the run's, 0 unless set].", metavar="N"),
]
Prefix = Annotated[
    str | None,
    _option("Begin every translation with TEXT; a trailing space completes its last word.", "--prefix", metavar="TEXT"),
]
Sample = Annotated[
    bool | None,
    _option(
        "Sample translations (--n-best N: N independent samples) in place of searching for the best [default: the "
        "run's, --no-sample unless set].",
        "--sample/--no-sample",
    ),
]
Temperature = Annotated[
    float | None, _option("With --sample: softmax temperature [default: the run's, 1 unless set].", metavar="T")
]
TopK = Annotated[
    int | None,
    _option(
        "With --sample: draw from the K most probable tokens; 0: from all [default: the run's, 0 unless set].",
        metavar="K",
    ),
]
SampleSeed = Annotated[
    int | None, _option("With --sample: random seed [default: the run's, 1 unless set].", "--seed", metavar="N")
]
TokenScores = Annotated[
    bool,
    _option("With tsv or json: add the tokens of every translation and their log-probabilities.", "--token-scores"),
]
OnError = Annotated[
    Literal["fail", "blank", "copy"],
    _option(
        "For a line that cannot be translated, such as one that is not UTF-8: fail (stop, name the line), or warn and "
        "write an empty line (blank) or the line itself (copy) [default: fail]."
    ),
]
Buffer = Annotated[
    float,
    _option(
        "How long a line from a pipe may wait for more lines to be translated with it; 0: not at all [default: 0].",
        metavar="SECONDS",
    ),
]
ResumeTranslation = Annotated[
    bool, _option("With --input FILE and --output FILE: resume an interrupted translation.", "--resume")
]
Interactive = Annotated[bool, _option("Prompt for sentences, with history.", "--interactive")]
Engine = Annotated[
    Literal["auto", "torch", "onnx"],
    _option(
        "torch, onnx (needs projtrans[fast]), or auto: onnx if the run has been exported and there is no GPU "
        "[default: auto]."
    ),
]
Precision = Annotated[
    Literal["float32", "bf16", "int8"] | None,
    _option(
        "float32, bf16 (torch; fast on CPUs with bfloat16 instructions) or int8 (onnx) [default: float32, or the most "
        "precise export]."
    ),
]

# export
GraphFormat = Annotated[Literal["onnx"], _option("onnx, the only format.", "--format")]
Precisions = Annotated[
    list[str] | None, _option("float32 or int8 (weights); repeatable [default: float32].", "--precision", metavar="P")
]

# compare
Runs = Annotated[
    list[Path],
    _argument("Run folders, the baseline first; runs that differ only in their seed form one system.", "RUN", runs),
]
DataFolders = Annotated[
    list[Path] | None,
    _option(
        "Prepared data folder; repeatable: each run uses the one with its tokenizer [default: its own].",
        "--data",
        metavar="DIR",
        complete=data_folders,
    ),
]
Prompts = Annotated[
    list[str] | None,
    _option(
        "Translate TEXT with every system; repeatable [default: six built-in sentences, the first English one from the "
        "paper; the first six test sentences for other languages].",
        "--prompt",
        metavar="TEXT",
    ),
]
Figures = Annotated[
    list[Path] | None,
    _option(
        "Plot loss and accuracy per epoch (Figure 2 of the paper) to a .png or .svg file; repeatable. Needs "
        "projtrans[plots].",
        "--figure",
        metavar="FILE",
    ),
]
ReportFormat = Annotated[
    Literal["text", "markdown", "json"],
    _option("text (tables), markdown or json (one object) [default: text].", "--format"),
]
