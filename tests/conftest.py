"""What pytest itself needs: hooks, and fixtures of several folders. What tests import is in modules of its own."""

import fcntl
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.commands import tree
from tests.toy import Toy, make_toy


def pytest_configure() -> None:
    """No deadlines, one thread per worker; Ctrl-C and a hang-up are heard, which background jobs and nohup ignore."""
    unhurried = [HealthCheck.too_slow]  # no test depends on time
    settings.register_profile("projtrans", deadline=None, suppress_health_check=unhurried)
    settings.load_profile("projtrans")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that no worker starts one when the others are done.

    The acceptance test takes minutes; the other files are ordered by their number of slow tests.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name != "test_acceptance.py", -slow[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the settings of the developer's machine from the tests, and the tests from the developer's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PROJTRANS_", "XDG_"))]:
            patch.delenv(name)
        patch.delenv("NO_COLOR", raising=False)
        patch.delenv("FORCE_COLOR", raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def toy(_alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """The toy corpus, prepared, with a trained model of each kind. Tests must not change it.

    It is made once for all workers, by the first that needs it, while the others wait for the lock.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "toy"
    with (shared / "toy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = tmp_path_factory.mktemp("made")
            make_toy(made)
            made.rename(folder)
    before = tree(folder)
    yield Toy(folder)
    assert tree(folder) == before, "a test changed the toy that all workers share"


@pytest.fixture
def workshop(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy's folder to work in, as the current folder."""
    folder = tmp_path / "workshop"
    shutil.copytree(toy.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder
