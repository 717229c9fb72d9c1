"""Where a command meets the shell: errors become one line and an exit status; signals, pipes, the memory allocator.

Knows no command. The console is imported only when there is something to print.
"""

import contextlib
import ctypes
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import typer
from typer.core import TyperGroup

from projtrans import files
from projtrans.errors import ProjtransError


class Closed(io.TextIOBase):
    """Stands in for a standard output that the caller has closed: an error only for a command that writes to it."""

    encoding = "utf-8"

    @property
    def buffer(self) -> "Closed":
        """The same object: writing bytes fails alike."""
        return self

    def write(self, data: str | bytes) -> int:
        """Raise OSError (EBADF)."""
        raise OSError(errno.EBADF, "closed; give it a place to go, or name a file by --output", "standard output")


class Commands(TyperGroup):
    """The group of commands: the one place where errors become a line and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line, then exit with its status."""
        if sys.stdout is None:  # `>&-`
            sys.stdout = Closed()
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
            sys.stdout.flush()
        except ProjtransError as error:
            status = _fail(str(error), error.exit_status)
        except typer.TyperException as error:
            status = _fail(_usage(error), 2)
        except KeyboardInterrupt:
            status = _fail("interrupted", 130)
        except BrokenPipeError:  # the reader has gone; discard what Python would still flush at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 0
        except OSError as error:
            status = _fail(f"{error.filename or 'writing'}: {error.strerror or error}", 1)
        status = status if isinstance(status, int) else 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Threads of gloo may outlive their process group and abort an interpreter that shuts down normally.
            sys.stderr.flush()
            os._exit(status)
        raise SystemExit(status)


def _fail(message: str, status: int) -> int:
    from projtrans.cli import console

    with contextlib.suppress(OSError):  # standard error is closed: the exit status remains
        console.error(message)
    return status


def _usage(error: Exception) -> str:
    message = getattr(error, "format_message", None)
    return str(message() if message else error)


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """On SIGTERM, exit through the usual clean-up."""
    raise SystemExit(128 + number)


def write(lines: Iterator[str], output: str | None) -> None:
    """Write lines to a file, replaced once all are there, or one by one to standard output or a device."""
    if output is None or output == "-":
        _put(lines, sys.stdout.buffer)
    elif (path := Path(output)).exists() and not path.is_file() and not path.is_dir():  # /dev/null, a named pipe
        with path.open("wb") as device:
            _put(lines, device)
    else:
        files.write_lines(path, lines)


def _put(lines: Iterator[str], stream: BinaryIO) -> None:
    for line in lines:
        stream.write(line.encode("utf-8", "replace") + b"\n")
        stream.flush()


def noting(quiet: bool) -> Callable[[str], None]:
    """A function that prints a line to standard error, or nothing if `quiet`."""

    def note(message: str) -> None:
        from projtrans.cli import console

        console.note(message, quiet)

    return note


def tune_allocator() -> None:
    """Keep freed memory instead of returning it to the system at every step (glibc only).

    Otherwise much of a training step is spent on page faults. Takes effect only before torch is imported.
    """
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: huge pages for large tensors
