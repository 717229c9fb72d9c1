"""The package is typed for its users: mypy accepts a file that uses it correctly and finds the error in another.

Torch and numpy are left out: mypy reads them for half a minute, and no type that these files use comes from them.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SETTINGS = "[mypy]\nstrict = true\n[mypy-torch.*,numpy.*,onnx.*,onnxruntime.*]\nfollow_imports = skip\n"

RIGHT = """\
from projtrans import OnnxTranslator, ProjtransError, Translator, __version__


def translate(run: str, lines: list[str]) -> list[str]:
    try:
        return [translation.text for translation in Translator.load(run, "cpu").translate(lines)]
    except ProjtransError as error:
        raise SystemExit(f"projtrans {__version__}: {error}") from error


def score(run: str, line: str) -> float:
    (translation,) = OnnxTranslator.load(run).with_decoding(beam_size=1).translate([line])
    return translation.best.score
"""

WRONG = """\
from projtrans import Translator

length: int = Translator.load("run").translate(["Hello."])[0].text
"""


def test_users_files_are_checked_against_the_types_of_the_package(tmp_path: Path) -> None:
    for name, text in (("mypy.ini", SETTINGS), ("right.py", RIGHT), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "right.py", "wrong.py"]
    found = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False).stdout
    assert found.splitlines()[:-1] == [
        'wrong.py:3: error: Incompatible types in assignment (expression has type "str", variable has type "int")'
        "  [assignment]"
    ]
