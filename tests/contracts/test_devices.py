"""Every file in edgekd/devices is checked here; a new file needs no new test."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

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


@pytest.mark.skipif(sys.platform != "linux", reason="another system ends a guest only after its request")
def test_a_guest_in_the_middle_of_a_request_ends_with_the_process_that_is_killed(tmp_path: Path) -> None:
    engine, told = tmp_path / "busy.py", tmp_path / "pid"
    engine.write_text(
        "import os, time\nclass Busy:\n    runtime = 'time'\n    def version(self):\n"
        f"        open({str(told)!r}, 'w').write(str(os.getpid()))\n        time.sleep(120)\nPLUGIN = Busy()\n"
    )
    asking = (
        "import sys; from pathlib import Path; from edgekd import devices, engines\n"
        "with devices.start('host', engines.GUEST, Path(sys.argv[1]), Path(sys.argv[2])) as connection:\n"
        "    connection.ask({'do': 'facts'}, 120)\n"
    )
    with subprocess.Popen([sys.executable, "-c", asking, str(engine), str(tmp_path)]) as process:
        guest = _soon(lambda: told.is_file() and int(told.read_text() or 0))
        process.kill()
    assert _soon(lambda: not Path(f"/proc/{guest}").exists() or "Z" in Path(f"/proc/{guest}/stat").read_text())


def _soon(found: Callable[[], Any]) -> Any:
    """What a question comes to be answered with, within half a minute."""
    for _ in range(300):
        if answer := found():
            return answer
        time.sleep(0.1)
    raise AssertionError("it did not come")
