"""Emulated Arm: the engine runs as Arm's machine code in its runtime's own wheel, under QEMU.

An address is a core, "qemu:cortex-a72", or a shipped target whose core, clock and caches are meant,
"qemu:raspberry-pi-4". Outputs and counts are those of the machine code; how long it takes here says nothing.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekd import emulation
from edgekd.devices import Connection, Device
from edgekd.devices._pipe import started
from edgekd.progress import tell
from edgekd.specs import Provenance

_CHECK_TIMEOUT_S: Final = 120.0


class _Qemu:
    provenance: Provenance = "emulated"

    @contextmanager
    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
        machine = emulation.machine_at(address)
        with tempfile.TemporaryFile() as counts:  # both QEMU and the guest have it open, so it needs no name
            command, environment = emulation.launch(machine, engine, counts.fileno())
            arguments = [*command, str(guest), str(engine)]
            with started(arguments, scratch, environment, [counts.fileno()]) as connection:
                yield connection

    def prepare(self, address: str, guest: Path, engines: Mapping[str, Path]) -> None:
        able = {name: engine for name, engine in engines.items() if emulation.able(engine)}
        emulation.prepare(address, able or engines)
        for name, engine in able.items():
            what = f"starting {name} on {address}"
            tell(what, 0, 1)
            with (
                tempfile.TemporaryDirectory() as scratch,
                self.start(address, guest, engine, Path(scratch)) as connection,
            ):
                connection.ask({"do": "facts"}, _CHECK_TIMEOUT_S)
            tell(what, 1, 1)

    def states(self, engines: Mapping[str, Path]) -> list[dict[str, Any]]:
        found = [
            emulation.state(core, {n: e for n, e in engines.items() if emulation.able(e)})
            for core in emulation.CORES.values()
        ]
        return [{"device": f"qemu:{one.core}", **msgspec.to_builtins(one)} for one in found]


PLUGIN: Final[Device] = _Qemu()
