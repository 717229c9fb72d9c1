"""What the tests of the commands share: how a failure looks, and `train` with the toy's configuration."""

from tests.commands import Result

PATIENCE = 120.0
"""Seconds after which a process that ought to have answered is taken to hang."""


def one_error(result: Result, status: int, told: str = "") -> str:
    """Check the manners of a failure: its status, one line that begins with `error:` at the end, no data."""
    assert result.status == status, result.err
    assert result.out == ""
    assert len(result.errors) == 1, result.err
    assert result.err.endswith(f"{result.errors[0]}\n"), result.err
    assert "Traceback" not in result.err
    assert told in result.errors[0], result.errors[0]
    return result.errors[0]


def tiny(*arguments: str) -> list[str]:
    """`train` with the toy's configuration."""
    return ["train", "--config", "tiny.yaml", *arguments]


def with_set(*assignments: str) -> list[str]:
    """`train` with the toy's configuration and settings on top."""
    return tiny(*(item for assignment in assignments for item in ("--set", assignment)))
