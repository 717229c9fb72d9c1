"""Sequences whose items are made on access: lines of a text on the disk, lists of token ids.

Axes: N items, P ids of all items. Knows no corpus and no tokenizer.
"""

import functools
import itertools
import mmap
import os
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypeVar, overload

import numpy as np

from projtrans.errors import DataError
from projtrans.files import decode_line

Row = TypeVar("Row", covariant=True)


class Rows(Sequence[Row]):
    """A sequence whose items are made on access."""

    @abstractmethod
    def row(self, index: int) -> Row:
        """The item at an index of 0 to len(self) - 1."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        found = range(len(self))[index]
        return self.row(found) if isinstance(found, int) else [self.row(i) for i in found]


class Lines(Rows[str]):
    """The lines of a UTF-8 file that stays on the disk: each is read on access.

    Line ends are those of `read_lines`. Raises DataError for invalid UTF-8 when its line is accessed.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        """`name` stands in errors; the caller may close the file afterwards."""
        size = os.fstat(file.fileno()).st_size
        self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._name = name

    @functools.cached_property
    def _starts(self) -> "array[int]":
        """Offsets [N + 1]: where every line begins, and where the last one ends."""
        starts, at = array("q", [0]), 0
        while at := self._data.find(b"\n", at) + 1:
            starts.append(at)
        if starts[-1] < len(self._data):
            starts.append(len(self._data))
        return starts

    @classmethod
    def of(cls, path: Path) -> "Lines":
        """The lines of the file; raises DataError where it cannot be read."""
        try:
            with path.open("rb") as file:
                return cls(file, str(path))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, index: int) -> str:
        """The line, without its line end."""
        line = self._data[self._starts[index] : self._starts[index + 1]]
        return decode_line(line, self._name, index + 1).removesuffix("\n").removesuffix("\r")


Ids = list[int]


class Ragged(Rows[Ids]):
    """Lists of ids, concatenated in one array, which may lie on the disk."""

    def __init__(self, ids_P: np.ndarray, starts_N: np.ndarray) -> None:
        """ids_P: all ids. starts_N [N + 1]: where each list begins, and where the last one ends."""
        self.ids_P, self.starts_N = ids_P, starts_N

    @classmethod
    def of(cls, lists: Sequence[Ids]) -> "Ragged":
        """The lists, copied."""
        starts_N = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=starts_N[1:])
        return cls(np.fromiter(itertools.chain.from_iterable(lists), np.int32, int(starts_N[-1])), starts_N)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The lists of all parts."""
        lengths = np.concatenate([np.diff(part.starts_N) for part in parts])
        return cls(np.concatenate([part.ids_P for part in parts]), np.append(0, np.cumsum(lengths)))

    def __len__(self) -> int:
        return len(self.starts_N) - 1

    def row(self, index: int) -> Ids:
        """The list."""
        return self.ids_P[self.starts_N[index] : self.starts_N[index + 1]].tolist()
