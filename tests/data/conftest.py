"""Lines to be split."""

import pytest


@pytest.fixture
def lines() -> list[str]:
    return [f"{a} {b} {c}" for a in "abcde" for b in "fghij" for c in "klmno"]
