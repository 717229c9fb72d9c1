"""Files that are complete or absent, and text read strictly.

Every file that the project writes goes through `replacing`: written beside its place, flushed to the disk, then renamed
over it, so that a crash, a full disk or Ctrl-C leaves the old file. Knows nothing of corpora, runs or models.
"""

import codecs
import contextlib
import errno
import glob
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from projtrans.errors import DataError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; after a block without error, it is fsynced and takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when the block ends without error and is removed otherwise.

    Raises DataError for what the system refuses.
    """
    try:
        place = folder.resolve()  # renaming a link would leave the link where the folder was
        place.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            (room / "new").mkdir()  # mkdtemp ignores the umask and closes its folder to others, mkdir does not
            yield room / "new"
            _exchange(room / "new", place, room / "old")
        finally:
            shutil.rmtree(room, ignore_errors=True)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DataError(f"cannot write {folder}: {error.strerror or error}{where}") from error


def _exchange(new: Path, folder: Path, old: Path) -> None:
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def link(source: Path, path: Path) -> None:
    """Make `path` the file that `source` is now, also when `source` is replaced later; a hard link where possible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:  # a file system without hard links
        with replacing(path) as copied:
            shutil.copyfile(source, copied)
        return
    temporary.replace(path)  # does nothing where both are already the same file
    temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file, created if missing, against all other processes; yields False where one of them holds the lock."""
    with path.open("a") as file:
        yield hold(file, path)


def hold(file: IO[Any], path: Path) -> bool:
    """Lock an open file against all other processes until it is closed; False where another one holds the lock.

    False too where `path` is no longer that file: its holder has just moved it. The system releases the lock when the
    process ends, however it ends. Where the file system has no locks, every process gets one.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`, each of which may be as large as the file itself."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file that was appended to, and its name, to the disk; does nothing where it is missing."""
    if path.exists():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` in UTF-8, line ends as given; a lone surrogate, which UTF-8 lacks, becomes ?."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Replace the file by the lines, each ended by a line feed and written as it comes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(f"{line}\n".encode("utf-8", "replace") for line in lines)


def write_json(path: Path, value: Any) -> None:
    """Replace the file by a JSON value, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or .gz.

    Only line feeds end a line (U+2028, U+0085 and the like stay inside it); a byte-order mark and the carriage return
    of Windows line ends are removed. Raises DataError for a file that cannot be read, and for invalid UTF-8 with its
    line.
    """
    return list(stream_lines(path))


def stream_lines(path: Path) -> Iterator[str]:
    """The lines of `read_lines` one after the other, so that the file may be larger than memory."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _decoded(file, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def decode_lines(data: bytes, name: str, first: int = 1) -> list[str]:
    """The lines of UTF-8 `data`, as `read_lines` splits them; errors give `name` and lines counted from `first`."""
    return list(_decoded(io.BytesIO(data), name, first))


def _decoded(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[str]:
    for number, line in enumerate(lines, first):
        if number == first:
            line = line.removeprefix(codecs.BOM_UTF8)
            if not line:  # the file holds the mark alone
                return
        yield decode_line(line, name, number).removesuffix("\n").removesuffix("\r")


def decode_line(line: bytes, name: str, number: int) -> str:
    """The text of line `number` of file `name`; raises DataError where it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}:{number}: not valid UTF-8 ({error.reason}); convert the file to UTF-8") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems can neither open a folder nor need to
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
