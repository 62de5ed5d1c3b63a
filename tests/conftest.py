"""Fixtures that several test modules share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout's root folder."""
    return Path(__file__).resolve().parent.parent
