"""Shell completion as bash asks for it: the installed function reads COMP_WORDS and answers in COMPREPLY."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from projtrans.cli import completion
from projtrans.config import assign, build, describe, shipped_names
from projtrans.errors import ConfigError
from projtrans.model.multihead import VARIANTS
from projtrans.runs.settings import Config
from tests.toy import KINDS, Toy

SCRIPT = f"#!{sys.executable}\nfrom projtrans.cli.main import main\nmain()\n"
"""What an installation puts on the path."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the command `projtrans`."""
    script = tmp_path_factory.mktemp("bin") / "projtrans"
    script.write_text(SCRIPT, encoding="utf-8")
    script.chmod(0o755)
    return f"{script.parent}:{os.environ['PATH']}"


@pytest.fixture
def shell(path: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the toy's folder, with the command on the PATH."""
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(toy.folder)


@pytest.fixture(scope="module")
def function(path: str) -> str:
    """What `projtrans --show-completion` prints for bash."""
    environment = {**os.environ, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return subprocess.check_output(["projtrans", "--show-completion", "bash"], text=True, env=environment)


def completed(function: str, words: list[str]) -> list[str]:
    """What bash offers for the last of the words after `projtrans`."""
    line = shlex.join(["projtrans", *words])
    script = f"""{function}
COMP_WORDS=({line}); COMP_CWORD={len(words)}
_projtrans_completion projtrans
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


ASKED = [
    (["tra"], ["train", "translate"]),
    (["train", "--conf"], ["--config"]),
    (["train", "--config", ""], shipped_names()),
    (["train", "--config", "sanger"], [name for name in shipped_names() if name.startswith("sanger")]),
    (["prepare", "--config", "tat"], ["tatoeba"]),
    (["train", "--attention", ""], list(VARIANTS)),
    (["train", "--set", "training.opt"], ["training.optimizer=adamw", "training.optimizer=rmsprop"]),
    (["train", "--set", "model.width"], ["model.width=256"]),
    (["train", "--set", "model.attention.tie"],
     ["model.attention.tie_query_key=true", "model.attention.tie_query_key=false"]),
    (["train", "--data", ""], ["data/toy"]),
    (["train", "--resume", "--run", "runs/tiny-p"], ["runs/tiny-projection"]),
    (["translate", "--model", ""], ["runs/latest", *(f"runs/tiny-{kind}" for kind in sorted(KINDS))]),
    (["evaluate", "runs/tiny-s"], ["runs/tiny-standard"]),
    (["compare", "runs/tiny-standard", "runs/tiny-p"], ["runs/tiny-projection"]),
    (["translate", "--engine", ""], ["auto", "torch", "onnx"]),
    (["prepare", "--split", ""], ["grouped", "random"]),
    (["translate", "--model", "elsewhere/"], []),
]  # fmt: skip


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize(("words", "offered"), ASKED, ids=[" ".join(words) for words, _ in ASKED])
def test_bash_is_offered_values(function: str, words: list[str], offered: list[str]) -> None:
    assert completed(function, words) == offered


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("words", ["train --set t", "train --config p", "train --attention p", "translate --model r"])
def test_completing_imports_neither_torch_nor_anything_that_renders(words: str, path: str) -> None:
    environment = {"COMP_WORDS": f"projtrans {words}", "COMP_CWORD": "3", "_PROJTRANS_COMPLETE": "complete_bash"}
    command = [sys.executable, "-X", "importtime", f"{path.partition(':')[0]}/projtrans"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    loaded = {name.split(".")[0] for name in re.findall(r"\|\s+([\w.]+)\s*$", done.stderr, re.MULTILINE)}
    assert "projtrans" in loaded
    assert done.stdout.strip()
    assert not loaded & {"torch", "numpy", "rich", "sentencepiece", "sacrebleu"}


@pytest.mark.usefixtures("shell")
def test_completion_installs_itself_for_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    subprocess.run(["projtrans", "--install-completion", "bash"], check=True, capture_output=True)
    (source,) = re.findall(r"source '(.*)'", (tmp_path / ".bashrc").read_text(encoding="utf-8"))
    assert "_PROJTRANS_COMPLETE=complete_bash" in Path(source).read_text(encoding="utf-8")


def test_every_setting_is_offered_with_a_value_that_it_takes() -> None:
    offered = completion.settings("")
    assert {word.partition("=")[0] for word in offered} == {dotted.partition(" ")[0] for dotted, *_ in describe(Config)}
    assert not [problem for word in offered if re.search("expected|out of range|is none of", problem := refusal(word))]


def refusal(assignment: str) -> str:
    """Why the setting is refused; nothing if it is not, and another setting's name if both must go together."""
    raw: dict[str, object] = {}
    assign(raw, assignment)
    try:
        build(Config, raw)
    except ConfigError as error:
        return str(error)
    return ""
