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
    """Write a run's model as graphs for ONNX Runtime, with which `translate` starts without torch.

    Needs projtrans[fast]; `train` does it by itself at its end where that is installed.

    Example: projtrans export runs/latest --precision float32 --precision int8
    """
    from projtrans.inference import onnx_export as exporting
    from projtrans.model import devices
    from projtrans.runs.run_folder import open_run

    devices.use_threads(threads)
    for path in exporting.export(open_run(run), precision or ["float32"]):
        noting(quiet)(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")
