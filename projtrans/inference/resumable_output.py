"""Output that takes hours: written beside its destination, with a record of its progress and of what made it.

    OUT.unfinished       the output so far
    OUT.unfinished.json  how far it is complete, and everything that the rest depends on

A killed translation resumes from the last record and yields identical bytes. Knows no model.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from projtrans import files
from projtrans.errors import DataError

FORMAT = 1


@dataclass(frozen=True)
class Done:
    """The progress of the output: lines and bytes of the input, bytes of the output."""

    lines: int = 0
    read: int = 0
    written: int = 0


@dataclass(frozen=True)
class Record:
    """The content of OUT.unfinished.json."""

    made_with: dict[str, Any]
    done: Done = field(default_factory=Done)
    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """The record in a file, or None if there is none; raises DataError if it is damaged."""
        if not path.exists():
            return None
        try:
            value = json.loads("\n".join(files.read_lines(path)))
            if value["format"] != FORMAT:
                raise DataError(f"{path}: written by another version of projtrans; delete it to start over")
            return cls(dict(value["made_with"]), Done(**value["done"]))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: damaged; delete it to start over") from error


class ResumableOutput:
    """The unfinished output of a path, as a context manager that leaves it there unless it was finished."""

    def __init__(self, path: Path, made_with: dict[str, Any], *, resume: bool) -> None:
        """made_with: plain JSON values, which have to equal those of the output that is to be resumed.

        Entering raises DataError if there is unfinished output that was made differently, that may not be touched
        (without `resume`), or that another process is writing.
        """
        self.path, self.made_with, self.resume = path, json.loads(json.dumps(made_with)), resume
        self.file_path = path.with_name(f"{path.name}.unfinished")
        self.record_path = path.with_name(f"{path.name}.unfinished.json")
        self.done = Done()

    def __enter__(self) -> Self:
        if self.path.is_dir():
            raise DataError(f"{self.path}: a folder; name a file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.file_path.open("ab")
        try:
            if not files.hold(self.file, self.file_path):
                raise DataError(f"{self.file_path}: another process is writing it; wait for that, or stop it")
            self._start()
        except BaseException:
            self.file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self.file.close()

    @property
    def kept_lines(self) -> int:
        """Lines of the input that need not be translated again, by the record on disk."""
        found = Record.read(self.record_path)
        return found.done.lines if found else 0

    def write(self, lines: Iterable[str]) -> None:
        """Add lines; a resumed translation has them only once `keep` has been called."""
        self.file.writelines(f"{line}\n".encode("utf-8", "replace") for line in lines)

    def keep(self, lines: int, read: int) -> None:
        """Sync to disk what was written, as the output of so many lines and bytes of the input."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._save(Done(lines, read, self.file.tell()))

    def finish(self) -> None:
        """Move the output to its destination."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file_path.replace(self.path)
        self.record_path.unlink()
        files.remove_leftovers(self.record_path)
        files.sync(self.path)

    def _save(self, done: Done) -> None:
        files.write_json(self.record_path, asdict(Record(self.made_with, done)))
        self.done = done

    def _start(self) -> None:
        """At the place that the record names, or at the beginning."""
        found = Record.read(self.record_path)
        if self.file.tell() and not found:
            raise DataError(f"{self.file_path}: in the way, and no record of a translation beside it; move it away")
        if found and found.done.lines and self.file.tell():
            if not self.resume:
                raise DataError(
                    f"{self.file_path}: an unfinished translation of {found.done.lines:,} lines is there; resume it "
                    "with --resume, or delete it to start over"
                )
            _refuse_changes(found.made_with, self.made_with, self.file_path)
            if self.file.tell() < found.done.written:
                raise DataError(f"{self.file_path}: shorter than its record says; delete it to start over")
            self.done = found.done
        self._save(self.done)
        self.file.truncate(self.done.written)


def _refuse_changes(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changed = [f"{name} ({was} before, {now.get(name)} now)" for name, was in before.items() if now.get(name) != was]
    if changed:
        raise DataError(
            f"{path}: begun with other settings: {', '.join(changed)}; repeat the command as it was, or delete it to "
            "start over"
        )
