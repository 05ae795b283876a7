"""What all tests share."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared" / "data"
if "EDGEKD_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["EDGEKD_DATA"] = str(_BESIDE)


@pytest.fixture(scope="session")
def toys() -> Path:
    """File of a user's own teacher, data and student: see tests/toys.py."""
    return Path(__file__).with_name("toys.py")
