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
from edgekd.errors import MeasureError
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

    def takes(self, engine: Path) -> bool:
        return emulation.able(engine)

    def prepare(self, address: str, guest: Path, engines: Mapping[str, Path]) -> None:
        emulation.prepare(address, engines)
        for name, engine in engines.items():
            self._check(address, guest, name, engine)

    def _check(self, address: str, guest: Path, name: str, engine: Path) -> None:
        """An engine that starts now starts wherever this core is asked for; Python also keeps what it compiles."""
        tell(f"starting {name} on {address}", 0, 1)
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            try:
                with self.start(address, guest, engine, scratch) as connection:
                    connection.ask({"do": "facts"}, _CHECK_TIMEOUT_S)
            except MeasureError as error:
                printed = (scratch / "engine.log").read_text(encoding="utf-8", errors="replace").split("\n")
                last = next((line for line in reversed(printed) if line.strip()), "it printed nothing")
                raise MeasureError(f"{name} does not start on qemu:{address}: {error}", hint=last) from error
        tell(f"starting {name} on {address}", 1, 1)

    def states(self, engines: Mapping[str, Path]) -> list[dict[str, Any]]:
        able = {name: engine for name, engine in engines.items() if self.takes(engine)}
        found = [emulation.state(core, able) for core in emulation.CORES.values()]
        return [{"device": f"qemu:{one.core}", **msgspec.to_builtins(one)} for one in found]


PLUGIN: Final[Device] = _Qemu()
