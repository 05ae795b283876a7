"""The `adb` client: its commands, the devices that it knows, and what its refusals mean."""

import asyncio
import re
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from edgekd.devices._held import Cut
from edgekd.errors import ConfigError, DeviceUnreachable, PluginUnavailable

CUT: Final[tuple[type[Exception], ...]] = (ConnectionError, TimeoutError, asyncio.IncompleteReadError, Cut)
COMMAND_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 5.0
"""For a device that is just being found."""
EXAMPLE: Final = "adb://SERIAL as `adb devices` shows it, adb://192.168.1.20:5555, or adb:// where there is one device"
ADB_PACKAGE: Final = "apt install adb, or Google's platform-tools"

_TCP: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")
_PASSING: Final = ("offline", "authorizing", "connecting")
"""States that a device may be in for a moment."""


@dataclass(frozen=True)
class Place:
    """A device, and whether its bundle stays there."""

    serial: str = ""
    """"" for the only one."""
    keep: bool = False

    @staticmethod
    def of(address: str) -> "Place":
        """The place of "//SERIAL?keep=1"; all of it may be left out.

        Raises:
            ConfigError: it is no such address.
        """
        wanted = ConfigError(f"adb:{address!r} is not an address", hint=EXAMPLE)
        name, _, query = address.removeprefix("//").partition("?")
        serial = unquote(name)
        try:
            options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
        except ValueError as error:
            raise wanted from error
        keep = options.pop("keep", "0")
        if not serial.isprintable() or serial.startswith("-") or {*serial} & {"/", "#", " "}:
            raise wanted
        if options or keep not in {"0", "1"}:
            raise wanted
        return Place(serial, keep == "1")

    @property
    def address(self) -> str:
        """As a user writes it."""
        return f"adb://{self.serial}"

    @property
    def is_tcp(self) -> bool:
        """True for a device that `adb connect` reaches."""
        return _TCP.fullmatch(self.serial) is not None

    def __str__(self) -> str:
        return self.serial


class Done(NamedTuple):
    """What a command did."""

    code: int
    printed: str
    complained: str

    @property
    def why(self) -> str:
        """Its last word."""
        lines = [line.strip() for line in f"{self.printed}\n{self.complained}".splitlines() if line.strip()]
        return lines[-1].removeprefix("adb: ").removeprefix("error: ") if lines else "it said nothing"


def client() -> str:
    """The adb client of this machine.

    Raises:
        PluginUnavailable: there is none.
    """
    found = shutil.which("adb")
    if not found:
        raise PluginUnavailable("adb is not installed", hint=ADB_PACKAGE)
    return found


async def call(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S, given: bytes = b"") -> Done:
    """Execute a command of adb.

    Raises:
        TimeoutError: it took too long, and was ended.
        PluginUnavailable: there is no adb.
    """
    process = await start(*arguments)
    try:
        async with asyncio.timeout(timeout_s):
            printed, complained = await process.communicate(given)
    finally:
        await end(process)
    code = process.returncode if process.returncode is not None else 1
    return Done(code, printed.decode(errors="replace"), complained.decode(errors="replace"))


async def start(*arguments: str, heard: bool = True) -> asyncio.subprocess.Process:
    """A command of adb that goes on; Ctrl-C does not reach it, for it is needed to tidy up.

    Nobody listens to the complaints of one that is not `heard`.
    """
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        client(), *arguments, stdin=pipe, stdout=pipe, stderr=pipe if heard else nowhere, start_new_session=True
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """End a command, if it has not ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    if process.stdin:
        process.stdin.close()
    await process.wait()


async def listed() -> dict[str, str]:
    """The devices that adb knows: serial -> state, which is "device" for one that is ready.

    Raises:
        DeviceUnreachable: adb's server does not start.
    """
    done = await call("devices")
    if done.code:
        raise DeviceUnreachable(f"adb does not work here: {done.why}", hint="does `adb devices` work?")
    return parse(done.printed)


def parse(printed: str) -> dict[str, str]:
    """What `adb devices` says: "SERIAL<tab>STATE" lines below a heading."""
    pairs = [line.partition("\t") for line in printed.splitlines() if not line.startswith("*")]
    return {serial: state.strip() for serial, tab, state in pairs if tab}


async def find(place: Place) -> Place:
    """The place of a device that is there and ready.

    Raises:
        DeviceUnreachable: there is no such device, or it is not ready.
        ConfigError: no device is named, and there are several.
    """
    known = await listed()
    if not place.serial:
        place = Place(_only(known), place.keep)
    if place.is_tcp and known.get(place.serial) != "device":
        await connect(place)
        known = await listed()
    waited_s = 0.0
    while known.get(place.serial, "") in _PASSING and waited_s < SETTLE_S:
        await asyncio.sleep(0.25)
        waited_s += 0.25
        known = await listed()
    if known.get(place.serial) != "device":
        raise refusal(place, known)
    return place


def _only(known: dict[str, str]) -> str:
    if len(known) == 1:
        return next(iter(known))
    if known:
        names = ", ".join(f"adb://{serial}" for serial in known)
        raise ConfigError(f"{len(known)} Android devices are attached, and none is named", hint=f"name one: {names}")
    raise DeviceUnreachable(
        "no Android device is attached", hint="is USB debugging on, and does `adb devices` list it?"
    )


async def connect(place: Place) -> None:
    """Let adb reach a device by TCP.

    Raises:
        DeviceUnreachable: nothing answers there.
    """
    done = await call("connect", place.serial)
    if "connected to" not in done.printed and "authenticate" not in done.why:
        raise DeviceUnreachable(
            f"{place} does not answer: {done.why}", hint=f"is adb over the network on there? adb connect {place}"
        )


def refusal(place: Place, known: dict[str, str]) -> DeviceUnreachable:
    """Why a device cannot be used."""
    state = known.get(place.serial, "")
    if not state:
        others = ", ".join(known) or "none"
        return DeviceUnreachable(f"no Android device {place} is attached", hint=f"`adb devices` lists: {others}")
    if state in {"unauthorized", "authorizing"}:
        hint = "unlock it, and allow USB debugging from this computer"
        return DeviceUnreachable(f"{place} does not trust this computer yet (unauthorized)", hint=hint)
    if state.startswith("no permissions"):
        return DeviceUnreachable(
            f"this user may not use {place}: {state}", hint="apt install android-sdk-platform-tools-common, plug it in"
        )
    if state in _PASSING:
        hint = f"plug it in again, or: adb -s {place} reconnect"
        return DeviceUnreachable(f"{place} does not answer ({state})", hint=hint)
    return DeviceUnreachable(f"{place} is in the state {state}, not in Android", hint="start it into Android")
