"""Where a target is measured, and by which of its engines; found out before any long work."""

import difflib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgekd import converters, devices, engines
from edgekd.errors import ConfigError, DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable
from edgekd.files import decode_json, digest, dumps, read_text, write_text
from edgekd.runs import Run
from edgekd.specs import Artifact, Provenance, Spec, Target

HOST: Final = "host"
HOST_THREADS: Final = 1
"""Of a timing on this machine: one thread is what is the same on all machines."""
FACTS_TIMEOUT_S: Final = 120.0
LONGEST_NAME: Final = 100
"""Of a place in the run folder."""

_FOR_A_TARGET: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
"""No device's address begins so: what stands before its "=" has a colon."""


class Place(NamedTuple):
    """A device, and what it has for a target."""

    device: str
    engines: tuple[str, ...]
    """Of the target, in its order, that are there."""
    lacking: Mapping[str, EdgekdError]
    """Those that are not, and why."""
    threads: int
    """That a model is given there."""
    wanted: bool
    """By the user, now or when the run was made: what cannot be measured there is told."""
    afresh: bool = False
    """Named by the command that runs: what failed there is tried again."""

    @property
    def provenance(self) -> Provenance:
        """Of its numbers."""
        return devices.provenance(self.device)

    def engine_for(self, artifact: Artifact) -> str | None:
        """The first of the target's engines that executes the artifact and is there; None where there is none."""
        fitting = engines.fitting(artifact.model.path)
        return next((name for name in self.engines if name in fitting), None)

    def why_not(self, artifact: Artifact) -> EdgekdError:
        """Why no engine there executes the artifact."""
        fitting = engines.fitting(artifact.model.path)
        first = next((error for name, error in self.lacking.items() if name in fitting), None)
        return first or PluginUnavailable(f"no engine of the target that executes {artifact.export} is there")


class Named(Spec, frozen=True, kw_only=True):
    """The devices that a target is to be measured on."""

    devices: tuple[str, ...] = ()


def place_name(device: str) -> str:
    """A device's name in the run folder: "ssh-pi-kitchen"."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", device).strip("-.")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{digest(device)[:8]}"


def devices_of(on: Sequence[str], targets: Sequence[Target]) -> dict[str, tuple[str, ...]]:
    """The devices named for each target, each by "DEVICE", which is meant for all, or by "TARGET=DEVICE".

    Raises:
        ConfigError: there is no such target, or two devices would have one name in the run folder.
        UnknownPlugin, PluginUnavailable: a device is of no known kind, or needs a package that is not here.
    """
    found: dict[str, dict[str, None]] = {target.name: {} for target in targets}
    for text in on:
        one = _FOR_A_TARGET.fullmatch(text)
        wanted, device = (one[1], one[2]) if one else ("", text)
        devices.located(device)
        if wanted and wanted not in found:
            close = difflib.get_close_matches(wanted, found, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"targets of this run: {', '.join(found)}"
            raise ConfigError(f"--on {text} is for {wanted!r}, which is no target of this run", hint=hint)
        for name in (wanted,) if wanted else found:
            found[name][device] = None
    for several in found.values():
        by_place: dict[str, str] = {}
        for device in several:
            other = by_place.setdefault(place_name(device), device)
            if other != device:
                raise ConfigError(f"{other} and {device} have one name in the run folder", hint="name one of them")
    return {name: tuple(several) for name, several in found.items()}


def remember(run: Run, named: Mapping[str, tuple[str, ...]]) -> None:
    """Keep which devices were named, for who goes on with the run."""
    for target, some in named.items():
        path = _kept(run.folder, target)
        if some:
            write_text(path, dumps(Named(devices=some)))
        else:
            path.unlink(missing_ok=True)


def remembered(folder: Path, targets: Sequence[Target]) -> tuple[str, ...]:
    """What was named when the run was made, as `devices_of` takes it.

    Raises:
        ConfigError: a file in the folder is damaged.
    """
    return tuple(
        f"{target.name}={device}"
        for target in targets
        if (path := _kept(folder, target.name)).is_file()
        for device in decode_json(Named, read_text(path), str(path)).devices
    )


def _kept(folder: Path, target: str) -> Path:
    return folder / "inputs" / f"on-{target}.json"


def ask(run: Run, target: Target, named: Sequence[str], afresh: bool, changed: bool) -> tuple[Place, ...]:
    """Where a target is measured: the devices named, each asked for its engines; where none is, this machine, and
    the target's emulator where that is prepared.

    Where no input of the run `changed`, a device that has answered for every export is not asked again; and one that
    was named when the run was made, and not `afresh`, is not where it has for any. So a report needs no device.

    Raises:
        DeviceUnreachable: a named device does not answer.
        PluginUnavailable: it has none of the target's engines; the hint brings one.
        ConfigError: it is not an address.
    """
    wanted = _wanted(target)
    if not named:
        usual = (_here(target, wanted), *_emulated(target, wanted))
        return tuple(place._replace(afresh=afresh) for place in usual)
    places = []
    for device in named:
        if devices.provenance(device) == "host":
            place = _here(target, wanted)
        else:
            known = () if changed else _known(run, target, device, of_all=afresh)
            place = _asked(target, device, wanted, known)
        places.append(place._replace(wanted=True, afresh=afresh))
    return tuple(places)


def _wanted(target: Target) -> dict[str, Path]:
    """Those engines of a target that its exports are for, in its order, and their files."""
    exports = {*target.exports, *target.fallbacks.values()}
    fitting = {name for one in exports for name in engines.fitting(f"model{converters.check(one).suffix}")}
    return {name: engines.path(name) for name in target.engines if name in fitting}


def _here(target: Target, wanted: Mapping[str, Path]) -> Place:
    lacking: dict[str, EdgekdError] = {
        name: PluginUnavailable(f"the engine {name} is not installed here", hint=engines.how_to_install(name))
        for name in wanted
        if not engines.installed(name)
    }
    there = tuple(name for name in wanted if name not in lacking)
    return Place(HOST, there, lacking, HOST_THREADS, wanted=False)


def _emulated(target: Target, wanted: Mapping[str, Path]) -> list[Place]:
    """The emulators of a target that are prepared for one of its engines."""
    places = []
    for device in devices.standing_in(target):
        lacking = _lacking(device, wanted)
        there = tuple(name for name in wanted if name not in lacking)
        places += [Place(device, there, lacking, target.threads, wanted=False)] if there else []
    return places


def _asked(target: Target, device: str, wanted: Mapping[str, Path], known: tuple[str, ...]) -> Place:
    lacking = {} if known else _lacking(device, wanted)
    there = known or tuple(name for name in wanted if name not in lacking)
    if not there:
        first = next(iter(lacking.values()), None)
        raise first or ConfigError(f"{target.name} has no engine to measure with on {device}")
    return Place(device, there, lacking, target.threads, wanted=True)


def _known(run: Run, target: Target, device: str, of_all: bool) -> tuple[str, ...]:
    """The engines that a device has answered with for an export, or () where it has not for all of them."""
    folder, place = run.folder / target.name / "5-measure", place_name(device)
    done = {
        export: {
            path.parent.name.split("@")[1]
            for name in {export, target.fallbacks.get(export, export)}
            for path in folder.glob(f"{name}@*@{place}/result.json")
        }
        for export in target.exports
    }
    if of_all and not all(done.values()):
        return ()
    found = set().union(*done.values())
    return tuple(name for name in target.engines if name in found)


def _lacking(device: str, wanted: Mapping[str, Path]) -> dict[str, EdgekdError]:
    """Those engines that cannot be started on a device, and why."""
    plugin, address = devices.located(device)
    if hasattr(plugin, "lacking"):
        told: dict[str, EdgekdError] = plugin.lacking(address, wanted)
        return told
    found: dict[str, EdgekdError] = {}
    for tried, (name, engine) in enumerate(wanted.items()):
        try:
            if hasattr(plugin, "bring") and len(found) < tried:  # one has started
                plugin.bring(engine)
            else:
                _start(device, engine)
        except DeviceUnreachable:
            raise
        except (ConfigError, PluginUnavailable, MeasureError) as error:  # raised after all, where no engine is there
            found[name] = error
    return found


def _start(device: str, engine: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="edgekd-ask-") as scratch,
        devices.start(device, engines.GUEST, engine, Path(scratch)) as connection,
    ):
        devices.check_real(device, connection.ask({"do": "facts"}, FACTS_TIMEOUT_S))
