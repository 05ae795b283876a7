"""Emulated Arm: the engine runs as Arm's machine code in its runtime's own wheel, under QEMU.

An address is a core, "qemu:cortex-a72", or a shipped target whose core, clock and caches are meant,
"qemu:raspberry-pi-4". Outputs and counts are those of the machine code; how long it takes here says nothing, so a
latency comes from the counts alone, by the core's cycle model.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgekd import emulation, shipped
from edgekd.devices import Connection, Device
from edgekd.devices._pipe import started
from edgekd.emulation import cycles, system
from edgekd.errors import ConfigError, EdgekdError, MeasureError, PluginUnavailable
from edgekd.progress import tell
from edgekd.specs import Interval, Provenance, Target
from edgekd.tensors import write_inputs

_CHECK_TIMEOUT_S: Final = 120.0
_PATH_LENGTH: Final = 256
"""Paths are filled up to this, or to its multiples."""


class _Qemu:
    provenance: Provenance = "emulated"
    timed = False

    @contextmanager
    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
        machine = emulation.machine_at(address)
        with tempfile.TemporaryFile() as counts:  # both QEMU and the guest have it open, so it needs no name
            command, environment = emulation.launch(machine, engine, counts.fileno())
            arguments = [*command, _of_even_length(guest), _of_even_length(engine)]
            with started(arguments, scratch, environment, [counts.fileno()]) as connection:
                yield _Emulated(connection)

    def takes(self, address: str, engine: Path) -> bool:
        return emulation.able(engine, emulation.machine_at(address).core)

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
                write_inputs(scratch / "inputs.npz", np.zeros(1))
                with self.start(address, guest, engine, scratch) as connection:
                    inputs = connection.put(scratch / "inputs.npz")
                    connection.ask({"do": "facts"}, _CHECK_TIMEOUT_S)
                    connection.ask({"do": "rehearse", "inputs": inputs}, _CHECK_TIMEOUT_S)
            except MeasureError as error:
                printed = (scratch / "engine.log").read_text(encoding="utf-8", errors="replace").split("\n")
                last = next((line for line in reversed(printed) if line.strip()), "it printed nothing")
                raise MeasureError(f"{name} does not start on qemu:{address}: {error}", hint=last) from error
        tell(f"starting {name} on {address}", 1, 1)

    def latency(
        self, address: str, instructions: Mapping[str, float], misses: Mapping[str, float], threads: int
    ) -> tuple[Interval, str] | None:
        return cycles.latency(emulation.machine_at(address), instructions, misses, threads)

    def check_ram(self, address: str) -> None:
        system.check(emulation.machine_at(address))

    def prepare_ram(self, address: str, engines: Mapping[str, Path]) -> None:
        system.prepare(engines)

    def confine(
        self,
        address: str,
        ram_bytes: int,
        files: Mapping[str, Path],
        requests: Sequence[dict[str, Any]],
        threads: int,
        scratch: Path,
    ) -> system.Said:
        system.prepare({"engine": files["engine.py"]})
        return system.run(emulation.machine_at(address), ram_bytes, files, requests, threads, scratch)

    def states(self, engines: Mapping[str, Path]) -> list[dict[str, Any]]:
        found = [emulation.state(core, engines) for core in emulation.CORES.values()]
        return [{"device": f"qemu:{one.core}", **msgspec.to_builtins(one)} for one in found]

    def lacking(self, address: str, engines: Mapping[str, Path]) -> dict[str, EdgekdError]:
        machine = emulation.machine_at(address)
        found: dict[str, EdgekdError] = {}
        for name, engine in engines.items():
            try:
                emulation.launch(machine, engine, output=0)
            except (ConfigError, PluginUnavailable) as error:
                found[name] = error
        return found

    def usual(self, target: Target) -> str:
        """The core where clock and caches are the target's, else the target where it is a shipped one."""
        core = target.emulator
        if core not in emulation.CORES:
            return ""
        if target.name not in shipped.target_names():
            return core
        known = shipped.load_target(target.name)
        if (known.emulator, known.device) != (core, target.device):
            return core
        return core if emulation.machine_at(core) == emulation.machine_at(target.name) else target.name

    def unlike(self, address: str, target: Target) -> dict[str, str]:
        machine, wanted = emulation.machine_at(address), target.device.clusters[0].clock_mhz
        if machine.core.name != target.emulator:
            why = f"it imitates {machine.core.name}, and not {target.emulator or 'a core'} of {target.name}"
            return {"latency_ms": why, "peak_memory_bytes": why}
        if machine.clock_mhz != wanted:
            return {"latency_ms": f"its clock is {machine.clock_mhz:g} MHz, and that of {target.name} {wanted:g} MHz"}
        return {}


class _Emulated:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, file: Path) -> str:
        return _of_even_length(file)

    def get(self, name: str, file: Path) -> None:
        self._connection.get(name, file)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return self._connection.ask(request, timeout_s)


def _of_even_length(file: Path) -> str:
    """A path of the same length wherever the file lies: one of another length moves what lies behind it in the guest's
    memory, and with it a few hundredths of the cache misses.
    """
    path = file.absolute()
    return f"{path.parent}{'/' * (1 + -len(str(path)) % _PATH_LENGTH)}{path.name}"


PLUGIN: Final[Device] = _Qemu()
