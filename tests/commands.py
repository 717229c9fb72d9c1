"""Ways to run the command, in this process or in one of its own, and what the tests look at afterwards."""

import contextlib
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from projtrans.cli.main import app


@dataclass(frozen=True)
class Result:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output, split where a shell splits them."""
        return self.out.split("\n")[:-1]

    @property
    def errors(self) -> list[str]:
        """The error lines of standard error."""
        return [line for line in self.err.split("\n") if line.startswith("error:")]


def cli(*arguments: object, stdin: str | bytes = "") -> Result:
    """Run the command in this process; an exception that would be a traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback instead of a line: {result.exception!r}") from result.exception
    return Result(result.exit_code, result.stdout_bytes.decode("utf-8"), result.stderr)


def done(*arguments: object, stdin: str | bytes = "") -> Result:
    """Run the command in this process; it must succeed."""
    result = cli(*arguments, stdin=stdin)
    assert result.status == 0, result.err
    return result


def command(*arguments: object) -> list[str]:
    """The command line of `python -m projtrans`."""
    return [sys.executable, "-m", "projtrans", *map(str, arguments)]


def run(*arguments: object, folder: Path, stdin: bytes = b"", **options: Any) -> Result:
    """Run the command as a process of its own."""
    finished = subprocess.run(
        command(*arguments), input=stdin, cwd=folder, capture_output=True, timeout=300, check=False, **options
    )
    return Result(finished.returncode, finished.stdout.decode("utf-8"), finished.stderr.decode("utf-8"))


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: the checksum of a file, the target of a link, the mark of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing more fails as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
