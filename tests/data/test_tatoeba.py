"""Finding the archive, and downloading it from a server on this machine that misbehaves on request."""

import hashlib
import http.server
import io
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from projtrans.data import tatoeba
from projtrans.errors import DataError
from projtrans.files import checksum


def zipped(members: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return data.getvalue()


ARCHIVE = zipped({"spa-eng/_about.txt": "x" * 200_000, "spa-eng/spa.txt": "Hi.\tHola.\n"})


class Server(http.server.ThreadingHTTPServer):
    """Serves ARCHIVE; `limit` cuts every answer after so many bytes."""

    ranges = True
    limit = len(ARCHIVE)
    status = 200
    data = ARCHIVE

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def remote(self) -> tatoeba.Remote:
        url = f"http://127.0.0.1:{self.server_port}/data/spa-eng.zip"
        return tatoeba.Remote(url=url, size=len(ARCHIVE), sha256=hashlib.sha256(ARCHIVE).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.server.ranges else 0
        body = self.server.data[start:]
        self.send_response(206 if start else self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(tatoeba.VARIABLE, raising=False)
    return tmp_path / "projtrans"


def quiet(done: int, total: int) -> None:
    pass


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------------------------- download


def test_a_download_is_reported_verified_and_kept(server: Server, cache: Path) -> None:
    reported: list[tuple[int, int]] = []
    found = tatoeba.find(None, report=lambda done, total: reported.append((done, total)), remote=server.remote)
    assert found.read_bytes() == ARCHIVE
    assert contents(cache) == ["spa-eng.zip"]
    assert reported == sorted(reported)
    assert reported[0] == (0, len(ARCHIVE))
    assert reported[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert tatoeba.find(None, report=quiet, remote=server.remote) == found
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_interrupted_download_is_resumed(server: Server, cache: Path, ranges: bool) -> None:
    server.limit, server.ranges = 100_000, ranges
    with pytest.raises(
        DataError, match=r"stopped after 100,000 of 2\d\d,\d\d\d bytes; run the command again to resume it"
    ):
        tatoeba.find(None, report=quiet, remote=server.remote)
    assert contents(cache) == ["spa-eng.zip.part"]
    server.limit = len(ARCHIVE)
    reported: list[int] = []
    found = tatoeba.find(None, report=lambda done, total: reported.append(done), remote=server.remote)
    assert found.read_bytes() == ARCHIVE
    assert contents(cache) == ["spa-eng.zip"]
    assert server.asked == [None, "bytes=100000-"]
    assert reported[0] == (100_000 if ranges else 0)


def test_a_complete_part_file_needs_no_server(cache: Path) -> None:
    """Stopped between the last byte and the renaming."""
    cache.mkdir()
    (cache / "spa-eng.zip.part").write_bytes(ARCHIVE)
    assert tatoeba.find(None, report=quiet, remote=NOWHERE).read_bytes() == ARCHIVE


@pytest.mark.parametrize("data", [ARCHIVE[:-1] + b"x", ARCHIVE + b"x"], ids=["changed", "longer"])
def test_another_file_than_expected_is_removed(server: Server, cache: Path, data: bytes) -> None:
    server.data, server.limit = data, len(data)
    with pytest.raises(DataError, match=r"another checksum \(removed\); name a local copy with --archive FILE"):
        tatoeba.find(None, report=quiet, remote=server.remote)
    assert contents(cache) == []


def test_a_damaged_cache_is_downloaded_anew(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / "spa-eng.zip").write_bytes(b"damaged")
    assert tatoeba.find(None, report=quiet, remote=server.remote).read_bytes() == ARCHIVE


NOWHERE = tatoeba.Remote(  # port 9 (discard) of this machine: refused at once
    url="http://127.0.0.1:9/spa-eng.zip", size=len(ARCHIVE), sha256=hashlib.sha256(ARCHIVE).hexdigest()
)


def test_offline_names_every_way_out(server: Server) -> None:
    server.status = 503
    for remote in (NOWHERE, server.remote):
        with pytest.raises(DataError) as caught:
            tatoeba.find(None, report=quiet, remote=remote)
        for word in ("--archive FILE", "PROJTRANS_TATOEBA", "projtrans prepare phrasebook", remote.url):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "HTTP 503" in str(caught.value)


def test_an_unwritable_cache_is_one_line(server: Server, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(DataError, match=r"^tatoeba-spa-eng: cannot download http://.* \(File exists\)"):
        tatoeba.find(None, report=quiet, remote=server.remote)


# ------------------------------------------------------------------------------------------------------ local copies


def test_a_local_copy_goes_before_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, meant = tmp_path / "named.zip", tmp_path / "meant.zip"
    named.write_bytes(ARCHIVE)
    meant.write_bytes(ARCHIVE)
    monkeypatch.setenv(tatoeba.VARIABLE, str(meant))
    assert tatoeba.find(None, report=quiet, remote=NOWHERE) == meant
    assert tatoeba.find(named, report=quiet, remote=NOWHERE) == named


def test_a_local_copy_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no\.zip: no such file; --archive must name"):
        tatoeba.find(tmp_path / "no.zip", report=quiet)
    monkeypatch.setenv(tatoeba.VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"a directory, not a file; PROJTRANS_TATOEBA must name"):
        tatoeba.find(None, report=quiet)


@pytest.mark.parametrize("member", ["spa-eng/spa.txt", "spa.txt"], ids=["the Keras archive", "newer snapshots"])
def test_the_pairs_file_is_found(tmp_path: Path, member: str) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"_about.txt": "", "__MACOSX/._spa.txt": "junk", member: "Go.\tVe.\tCC\n"}))
    assert tatoeba.pairs_file(tmp_path / "x.zip") == (b"Go.\tVe.\tCC\n", f"{tmp_path / 'x.zip'}:{member}")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    for data, reason in [
        (b"text", "not a readable zip archive"),
        (ARCHIVE[: len(ARCHIVE) // 2], "not a readable zip archive"),
        (ARCHIVE.replace(b"Hola", b"hola"), "not a readable zip archive"),  # the checksum inside the archive
        (zipped({"fra.txt": "a\tb"}), "no spa.txt in it"),
    ]:
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"x\.zip: {reason}"):
            tatoeba.pairs_file(path)


@pytest.mark.skipif(
    not Path(os.environ.get(tatoeba.VARIABLE, "")).is_file(), reason=f"{tatoeba.VARIABLE} names no archive"
)
def test_the_real_archive_is_the_one_that_is_expected() -> None:
    archive = Path(REAL)
    assert (archive.stat().st_size, checksum(archive)) == (tatoeba.REMOTE.size, tatoeba.REMOTE.sha256)
    assert tatoeba.pairs_file(archive)[0].count(b"\n") == 118_964


REAL = os.environ.get(tatoeba.VARIABLE, "")  # read here: the fixture hides it from the tests
