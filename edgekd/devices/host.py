"""This machine: the engine runs in a process of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgekd.devices import Connection, Device
from edgekd.devices._pipe import started
from edgekd.environments import python_for
from edgekd.specs import Provenance


class _Host:
    provenance: Provenance = "host"

    @contextmanager
    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
        python = python_for(engine)
        alone = [] if python == Path(sys.executable) else ["-I"]  # a worker's PYTHONPATH names edgekd's own packages
        with started([str(python), *alone, str(guest), str(engine)], scratch) as connection:
            yield connection


PLUGIN: Final[Device] = _Host()
