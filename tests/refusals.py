"""How tests read the one line that settings are refused with."""

from typing import Any

import pytest

from projtrans.config import build
from projtrans.errors import ConfigError


def problem(*arguments: Any) -> str:
    """The one line that building these settings is refused with."""
    return refusal(build, *arguments)


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1, "an error is one line"
    return message
