"""Tests, in the folders of the product, and modules that they share.

The asserts of the shared modules show their values, as those of the tests do.
"""

from pathlib import Path

import pytest

SHARED = [path for path in Path(__file__).parent.rglob("*.py") if not path.name.startswith(("test_", "_", "conftest"))]
pytest.register_assert_rewrite(
    *(".".join(("tests", *path.relative_to(Path(__file__).parent).with_suffix("").parts)) for path in SHARED)
)
