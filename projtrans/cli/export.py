"""The command `export`."""

from projtrans.cli import options as o
from projtrans.cli.shell import noting


def export(
    run: o.Run = None,
    format: o.GraphFormat = "onnx",
    precision: o.Precisions = None,
    quiet: o.Quiet = False,
    threads: o.Threads = None,
) -> None:
    """Export a run for ONNX Runtime, to translate without torch.

    Needs projtrans[fast]; where that is installed, `train` exports at its end.

    Example: projtrans export runs/latest --precision float32 --precision int8
    """
    from projtrans.inference import onnx_export as exporting
    from projtrans.model import devices
    from projtrans.runs.run_folder import open_run

    devices.use_threads(threads)
    for path in exporting.export(open_run(run), precision or ["float32"]):
        noting(quiet)(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")
