"""What all tests share."""

import atexit
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("edgekd", suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of ours
settings.load_profile("edgekd")

_BESIDE = Path(__file__).parents[2] / "shared" / "data"
if "EDGEKD_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["EDGEKD_DATA"] = str(_BESIDE)

_STORES = Path(tempfile.mkdtemp(prefix="edgekd-"))
_NUMBERS = itertools.count()
os.environ["EDGEKD_KNOWLEDGE"] = str(_STORES / "session")  # of fixtures that outlive a test
atexit.register(shutil.rmtree, _STORES, ignore_errors=True)


@pytest.fixture(autouse=True)
def knowledge(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where teachers and what they say are kept: an empty place for each test, so that none saves another the work."""
    folder = _STORES / str(next(_NUMBERS))
    monkeypatch.setenv("EDGEKD_KNOWLEDGE", str(folder))
    return folder


def data_folder() -> Path:
    """Data that is not in the project; whoever needs it skips where it is not there."""
    return Path(os.environ.get("EDGEKD_DATA", "no data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look at the same whole run go to the same process, so that it is made once."""
    for item in items:
        if "whole" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("whole"))


@pytest.fixture(scope="session")
def toys() -> Path:
    """File of a user's own teacher, data and student: see tests/toys.py."""
    return Path(__file__).with_name("toys.py")
