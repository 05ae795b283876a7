"""Prove that an artifact runs on a machine with so much RAM, by executing it on an emulated one."""

import os
import re
from pathlib import Path
from typing import Any, Final, Literal, cast

from edgekd import devices, engines
from edgekd.emulation import system
from edgekd.errors import ConfigError
from edgekd.files import content
from edgekd.measure import Draw, Job
from edgekd.progress import tell
from edgekd.specs import Ending, Fits
from edgekd.tensors import first_inputs

MEGABYTE: Final = 1 << 20
"""Of RAM, which is sold in powers of two."""
LEAST_BYTES: Final = 16 * MEGABYTE
INFERENCES: Final = 5
"""What the guest does to weigh a model."""
_SIZE: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*([MGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_FACTORS: Final = {"M": MEGABYTE, "G": MEGABYTE << 10, "T": MEGABYTE << 20}
_SIGNALS: Final = 128
_EXAMPLE: Final = "write 64MB, 512MB or 2GB"


def read_size(text: str) -> int:
    """Bytes of RAM: "512MB" and "512 MiB" are both 512 times 2^20, as machines are sold.

    Raises:
        ConfigError: it is no size, no whole number of megabytes, or none that this machine can emulate.

    >>> read_size("64MB"), read_size("0.5 GB")
    (67108864, 536870912)
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is no size of RAM", hint=_EXAMPLE)
    size = float(found[1]) * _FACTORS[found[2].upper()]
    if size < LEAST_BYTES:
        raise ConfigError(f"{text} of RAM is less than any Linux starts in", hint=_EXAMPLE)
    if size % MEGABYTE:
        raise ConfigError(f"{text} is no whole number of megabytes of 2^20 bytes", hint=_EXAMPLE)
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > own:
        raise ConfigError(f"{text} of RAM is more than this machine has", hint=f"it has {own >> 20} MB")
    return int(size)


def check(device: str) -> None:
    """Raise ConfigError for a device that cannot have any amount of RAM, PluginUnavailable for want of a tool."""
    plugin, address = cast(tuple[Any, str], devices.located(device))
    if not hasattr(plugin, "confine"):
        raise ConfigError(f"--ram is for emulated devices, and {device} is none", hint="--on qemu:cortex-a72")
    plugin.check_ram(address)


def prove(job: Job, draw: Draw, ram_bytes: int, scratch: Path) -> Fits:
    """Whether a model is loaded and executed within the RAM of a machine that Linux, Python and the runtime share.

    Raises:
        ConfigError: the device has no such machines.
        PluginUnavailable: a tool or a preparation is missing; the hint has the command.
        MeasureError: the engine cannot load the model at all.
    """
    check(job.device)
    plugin, address = cast(tuple[Any, str], devices.located(job.device))
    engine = engines.path(job.engine)
    tell(f"{job.name} in {ram_bytes >> 20} MB", 0, 2)
    with devices.start(job.device, engines.GUEST, engine, scratch) as connection:  # with all the memory it wants
        load = {"do": "load", "model": connection.put(job.model), "threads": job.threads}
        inputs = draw(connection.ask(load, 600)["inputs"])
    tell(f"{job.name} in {ram_bytes >> 20} MB", 1, 2)
    given = {f"input-{index}": one for index, one in enumerate(first_inputs(inputs, scratch))}
    files = {"guest.py": engines.GUEST, "engine.py": engine, "model": job.model}
    files |= {name: one["file"] for name, one in given.items()}
    weigh = {
        "do": "memory",
        "model": system.there("model", job.model),
        "inputs": [{**one, "file": system.there(name, one["file"])} for name, one in given.items()],
        "threads": job.threads,
    }
    said = plugin.confine(address, ram_bytes, files, [{"do": "facts"}, weigh], job.threads, scratch)
    tell(f"{job.name} in {ram_bytes >> 20} MB", 2, 2)
    return _judged(job, ram_bytes, said)


def _judged(job: Job, ram_bytes: int, said: system.Said) -> Fits:
    facts, weighed = (*said.answers, {}, {})[:2]
    ended_by, why = _ending(said, facts, weighed)
    known = weighed if not ended_by else {}
    return Fits(
        artifact=job.name,
        engine=job.engine,
        engine_version=facts.get("engine_version", ""),
        device=job.device,
        provenance=devices.provenance(job.device),
        ram_bytes=ram_bytes,
        file_bytes=content(job.model)[0],
        threads=job.threads,
        ran=not ended_by,
        ended_by=ended_by,
        during=_stage(said) if ended_by else "",
        why=why,
        inferences=0 if ended_by else INFERENCES,
        system_bytes=None if said.available_bytes is None else ram_bytes - said.available_bytes,
        runtime_rss_bytes=known.get("runtime_rss_bytes"),
        peak_rss_bytes=known.get("peak_rss_bytes"),
        free_bytes=known.get("available_bytes"),
        arena_bytes=known.get("arena_bytes"),
    )


def _stage(said: system.Said) -> Literal["boot", "import", "model"]:
    if said.available_bytes is None:
        return "boot"
    return "model" if said.answers and said.answers[0].get("ok") else "import"


def _ending(said: system.Said, facts: dict[str, Any], weighed: dict[str, Any]) -> tuple[Ending, str]:
    """How it ended, and why in words; the kernel's own word comes before what follows from it."""
    if weighed.get("ok"):
        return "", ""
    if said.killed:
        return "killed", said.killed
    if said.silent:
        return (
            "time",
            f"silent for {system.SILENCE_S:.0f} s: Linux reads programs anew all the time, for want of memory",
        )
    if said.available_bytes is None:
        return "boot", said.last or "Linux printed nothing"
    refusal = next((str(one["error"]) for one in (facts, weighed) if one and not one["ok"]), "")
    return ("refused", (refusal.splitlines() or [""])[0]) if refusal else ("crashed", _crash(said))


def _crash(said: system.Said) -> str:
    code = said.exit_code
    if code is None:
        return said.last or "the machine stopped"
    return f"it ended by signal {code - _SIGNALS}" if code > _SIGNALS else f"it ended with exit code {code}"
