"""Every file in edgekd/devices is checked here; a new file needs no new test."""

from pathlib import Path
from typing import get_args

import pytest

from edgekd import devices, engines
from edgekd.errors import MeasureError
from edgekd.plugins import find, names
from edgekd.specs import Provenance


@pytest.mark.parametrize("name", names(devices))
def test_it_says_where_its_numbers_come_from(name: str) -> None:
    assert find(devices, name).provenance in get_args(Provenance)


def test_an_engine_that_hangs_is_ended(tmp_path: Path) -> None:
    engine = tmp_path / "slow.py"
    engine.write_text(
        "import time\nclass Slow:\n    runtime = 'time'\n    def version(self): time.sleep(60)\nPLUGIN = Slow()\n"
    )
    with (
        find(devices, "host").start("", engines.GUEST, engine, tmp_path) as connection,
        pytest.raises(MeasureError, match="hung"),
    ):
        connection.ask({"do": "facts"}, 1)


def test_an_engine_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    engine = tmp_path / "broken.py"
    engine.write_text("class Broken:\n    runtime = 'no_such_runtime'\nPLUGIN = Broken()\n")
    with (
        find(devices, "host").start("", engines.GUEST, engine, tmp_path) as connection,
        pytest.raises(MeasureError, match="no_such_runtime"),
    ):
        connection.ask({"do": "facts"}, 30)
