"""The Tatoeba English-Spanish archive: found on this machine, or downloaded once and cached.

Gives the bytes of the pairs file in the archive. Knows nothing of how its lines are read (corpora.py).
"""

import contextlib
import http.client
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from projtrans.errors import DataError
from projtrans.files import checksum

VARIABLE = "PROJTRANS_TATOEBA"
_WAYS_OUT = f"name a local copy with --archive FILE or {VARIABLE}, or use `projtrans prepare phrasebook` (bundled)"
_BLOCK = 1 << 16

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on the web, with the size and checksum that it must have."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


REMOTE = Remote(
    url="https://storage.googleapis.com/download.tensorflow.org/data/spa-eng.zip",
    size=2_638_744,
    sha256="0c4fd7825d3d872488d38c157f784e035edab4f2ff0df25a2a208790ecb5b58f",
)


def cache_folder() -> Path:
    """Where downloads are cached: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "projtrans"


def find(archive: Path | None, *, report: Report, remote: Remote = REMOTE) -> Path:
    """The archive: `archive`, else the file PROJTRANS_TATOEBA names, else the cached one, else downloaded now.

    `report` receives bytes done and bytes in total. Raises DataError, also when offline and not cached.
    """
    named = os.environ.get(VARIABLE)
    if archive is not None or named:
        local = archive or Path(named or "")
        if not local.is_file():
            problem = "a directory, not a file" if local.is_dir() else "no such file"
            raise DataError(f"{local}: {problem}; {'--archive' if archive else VARIABLE} must name spa-eng.zip")
        return local
    cached = cache_folder() / remote.name
    if cached.is_file() and checksum(cached) == remote.sha256:
        return cached
    _download(remote, cached, report)
    return cached


def pairs_file(archive: Path) -> tuple[bytes, str]:
    """The bytes of the pairs file in the archive, and a name for it.

    Accepts any snapshot: `spa.txt` at the top or in a folder; newer ones have a third column (attribution).
    """
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if PurePosixPath(name).name == "spa.txt"]
            if not names:
                raise DataError(f"{archive}: no spa.txt in it, so this is not a spa-eng archive; {_WAYS_OUT}")
            return file.read(names[0]), f"{archive}:{names[0]}"
    # RuntimeError: encrypted; NotImplementedError: a compression that zipfile lacks
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive}: not a readable zip archive ({_reason(error)}); {_WAYS_OUT}") from error


# --------------------------------------------------------------------------------------------------------- download


def _download(remote: Remote, place: Path, report: Report) -> None:
    """Download to `place`, by way of a `.part` file from which a later call resumes."""
    part = place.with_name(f"{place.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        done = part.stat().st_size if part.exists() else 0
        if done < remote.size:
            done = _transfer(remote, part, done, report)
        _accept(remote, part, done, place)
    except (OSError, http.client.HTTPException) as error:  # urllib's URLError is an OSError
        raise DataError(f"tatoeba-spa-eng: cannot download {remote.url} ({_reason(error)}); {_WAYS_OUT}") from error


def _accept(remote: Remote, part: Path, done: int, place: Path) -> None:
    """Move the downloaded file to its place; raises DataError for an incomplete file, and for another one."""
    if done < remote.size:
        stopped = f"the download stopped after {done:,} of {remote.size:,} bytes"
        raise DataError(f"tatoeba-spa-eng: {stopped}; run the command again to resume it, or {_WAYS_OUT}")
    if done > remote.size or checksum(part) != remote.sha256:
        part.unlink()
        raise DataError(f"tatoeba-spa-eng: {remote.url} sent a file with another checksum (removed); {_WAYS_OUT}")
    part.replace(place)


def _transfer(remote: Remote, part: Path, done: int, report: Report) -> int:
    """Append what is missing to `part`; returns its size in bytes."""
    with _response(remote, done) as response:
        # 200 instead of 206: the server does not support ranges and sends the whole file
        done = done if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        with part.open("ab" if done else "wb") as file:
            report(done, remote.size)
            while done <= remote.size and (block := response.read(_BLOCK)):
                file.write(block)
                done += len(block)
                report(min(done, remote.size), remote.size)
            file.flush()
            os.fsync(file.fileno())
    return done


@contextlib.contextmanager
def _response(remote: Remote, done: int) -> Iterator[http.client.HTTPResponse]:
    headers = {"User-Agent": "projtrans"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=30) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
