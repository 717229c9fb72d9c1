"""The runs that the tests of a comparison share, by name, and what the commands print about them."""

import json
from pathlib import Path
from typing import Any

from tests.commands import done

KIND = "model.attention.kind"

STANDARD, PROJECTION = "runs/tiny-standard", "runs/tiny-projection"
SEEDS = [STANDARD, PROJECTION, "runs/projection-2", "runs/standard-2"]


def compared(*arguments: object) -> dict[str, Any]:
    """The object that the command prints."""
    found: dict[str, Any] = json.loads(done("compare", *arguments, "--format", "json", "--threads", 1).out)
    return found


def hypotheses(run: str) -> list[str]:
    """What `evaluate` translates the test split to."""
    done("evaluate", run, "--hypotheses", "hypotheses", "--threads", 1)
    return Path("hypotheses").read_text(encoding="utf-8").split("\n")[:-1]
