"""The command `compare`."""

import json as jsonlib

from projtrans.cli import options as o
from projtrans.cli.shell import write
from projtrans.cli.translators import run_translator


def compare(
    runs: o.Runs,
    data: o.DataFolders = None,
    prompts: o.Prompts = None,
    figures: o.Figures = None,
    beam_size: o.BeamSize = None,
    length_penalty: o.LengthPenalty = None,
    format: o.ReportFormat = "text",
    output: o.Output = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> None:
    """Compare runs: settings, time, scores and their significance.

    Also shows learning curves and sample translations. Runs that differ only in their seed form one system, reported
    as mean and standard deviation; the system of the first run is the baseline.

    Example: projtrans compare runs/phrasebook-standard runs/phrasebook-projection
    """
    from projtrans.cli import console
    from projtrans.comparison import compare as comparing
    from projtrans.comparison import figure, report

    figure.check(figures or [])
    flags = {"beam_size": beam_size, "length_penalty": length_penalty}
    opened = comparing.open_runs(runs)
    with console.Bars(quiet) as bars:
        found = comparing.compare(
            opened,
            lambda run: run_translator(run, device, threads, flags),
            data=data or [],
            prompts=prompts,
            report=bars,
        )
    if format == "json":
        text = jsonlib.dumps(found.to_json(), ensure_ascii=False, indent=2)
    elif format == "markdown":
        text = report.markdown(report.sections(found))
    else:
        text = console.tables(report.sections(found), to_file=output not in (None, "-"))
    write(iter(text.split("\n")), output)
    figure.draw(found.sides, figures or [])  # last, so that a failure here loses no text that took minutes
