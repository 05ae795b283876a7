"""What all tests share."""

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
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
    """Tests of a file that share what it makes once go to one process, for each process would make its own."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None and _shares(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


CHEAP = ("_", "server")
"""Beginnings of names of fixtures that cost little, whose tests had better be spread: an sshd starts in no time."""


def _shares(item: pytest.Item) -> bool:
    """True where a fixture of the test's own file outlives the test, and is worth it."""
    info = getattr(item, "_fixtureinfo", None)
    known = info.name2fixturedefs if info else {}
    return any(
        definition.scope in {"module", "session"} and definition.baseid.endswith(".py") and not name.startswith(CHEAP)
        for name, definitions in known.items()
        for definition in definitions
    )


@pytest.fixture(scope="session", autouse=True)
def _short_timings() -> Iterator[None]:
    """Rapid runs last a blink: what is shown of a timing does not depend on how long it is, and each takes its seconds
    however fast the machine is. Processes that tests start time as long as they do for everybody."""
    from edgekd.measure import PROTOCOLS

    usual = PROTOCOLS["rapid"]
    PROTOCOLS["rapid"] = usual._replace(warmup_count=2, warmup_s=0.1, min_count=16, min_s=0.4)
    yield
    PROTOCOLS["rapid"] = usual


@pytest.fixture(scope="session")
def toys() -> Path:
    """File of a user's own teacher, data and student: see tests/toys.py."""
    return Path(__file__).with_name("toys.py")
