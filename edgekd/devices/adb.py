"""An Android phone, reached by Google's `adb`: adb://SERIAL[?keep=1], adb://HOST:PORT, or adb:// where there is one.

It needs Android 8 on a processor of 64-bit Arm, USB debugging, and neither root rights nor an app. A phone has no
Python, so `_bundle.py` brings one with the engine's runtime, some 30 MB, to a folder below /data/local/tmp, which is
gone afterwards; with keep=1 the bundle stays for the next time, in /data/local/tmp/edgekd.*. The engine does not notice
when the line is cut: `_keeper.py` holds it there, and its answer, until this side is back. What restarts adbd on the
phone, such as `adb root`, ends it.
"""

import asyncio
import hashlib
import json
import os
import posixpath
import re
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgekd.devices import Connection, Device
from edgekd.devices import _adb as adb
from edgekd.devices import _android as android
from edgekd.devices._adb import CUT, Place
from edgekd.devices._bundle import ARCHITECTURE, LIBRARIES, LOADER, PYTHON, SITE, Bundle, bundle
from edgekd.devices._held import KEEPER, LOG_BYTES, READ_BYTES, SPARE_BYTES, Cut, Do, Held, Talk, background, renamed
from edgekd.emulation import wheels
from edgekd.errors import DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable, StorageError
from edgekd.files import file_digest, members, storage_errors
from edgekd.progress import tell
from edgekd.specs import Provenance

ABOVE: Final = "/data/local/tmp"
"""What the shell's user of every Android may write to, and execute files in."""
COMMAND_TIMEOUT_S: Final = 120.0
SLOWEST_BYTES_PER_S: Final = 250_000
"""Of a line that is not taken for a silent one."""
PARTING_TIMEOUT_S: Final = 10.0

_MAKE_FOLDER: Final = f"""
trap '' HUP
umask 077
folder=$(mktemp -d {ABOVE}/edgekd-XXXXXXXXXX) && printf 'edgekd folder %s\\n' "$folder"
printf 'edgekd end\\n'
cat >/dev/null
[ -z "$folder" ] || [ -e "$folder/lock" ] || rm -rf -- "$folder"
"""
"""It stays until its standard input ends, by a cut too, and leaves a folder behind only to a keeper that holds it."""

_FULL: Final = ("No space left on device", "Disk quota exceeded")
_CLOSED: Final = ("Permission denied", "Read-only file system", "Operation not permitted", "Is a directory")


@dataclass
class Adb:
    """See edgekd/devices/__init__.py."""

    provenance: Provenance = "measured"
    patience_s: float = 90.0
    """How long a cut line is waited for."""

    @contextmanager
    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
        session = _Session(Place.of(address), self.patience_s)
        with background("edgekd-adb", CUT) as do:
            try:
                do(session.find())
                needed = bundle(engine)
                do(session.open(guest, engine, needed))
                yield _Phone(Held(session, do, scratch / "engine.log", str(session.place)), session, do)
            finally:
                do(session.close(scratch / "engine.log"))

    def bring(self, engine: Path) -> None:
        bundle(engine)

    def states(self, engines: Mapping[str, Path]) -> list[dict[str, Any]]:
        if not shutil.which("adb"):
            return []
        able = [name for name, engine in engines.items() if wheels.packages_of(engine, ARCHITECTURE)]
        common = {"counts": False, "engines": able}
        if not _is_served():
            missing, hint = "no adb server runs", "adb devices"
            return [{"device": "adb://", "ready": False, **common, "engines": [], "missing": missing, "hint": hint}]
        return [_state(place, known, common) for place, known in _attached()]


def _attached() -> list[tuple[Place, dict[str, str]]]:
    known: dict[str, str] = {}
    with suppress(EdgekdError, *CUT):
        known = asyncio.run(adb.listed())
    return [(Place(serial), known) for serial in known]


def _state(place: Place, known: dict[str, str], common: dict[str, Any]) -> dict[str, Any]:
    refusal = None if known[place.serial] == "device" else adb.refusal(place, known)
    missing, hint = (str(refusal), refusal.hint) if refusal else ("", "")
    return {"device": place.address, "ready": not refusal, **common, "missing": missing, "hint": hint}


def _is_served() -> bool:
    """True where an adb server runs, so that listing starts none."""
    if "ADB_SERVER_SOCKET" in os.environ:
        return True
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "5037")
    with suppress(OSError, ValueError, OverflowError), socket.create_connection(("127.0.0.1", int(port)), 1):
        return True
    return False


class _Phone:
    """A connection that adds what Android tells of a phone to what the guest finds out."""

    def __init__(self, connection: Connection, session: "_Session", do: Do) -> None:
        self._connection, self._session, self._do = connection, session, do

    def put(self, file: Path) -> str:
        return self._connection.put(file)

    def get(self, name: str, file: Path) -> None:
        self._connection.get(name, file)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if request["do"] != "time":
            answer = self._connection.ask(request, timeout_s)
            if request["do"] == "facts":
                told = android.identity(android.properties(self._do(self._session.inquire(android.COMMAND))))
                answer = {**answer, "machine": {**answer["machine"], **told}}
            return answer
        before = android.heat(self._do(self._session.inquire(android.THERMAL_COMMAND)))
        answer = self._connection.ask(request, timeout_s)
        after = android.heat(self._do(self._session.inquire(android.THERMAL_COMMAND)))
        heated = {"before": before, "after": after}
        return {**answer, **{when: android.with_heat(answer[when], found) for when, found in heated.items()}}


@dataclass
class _Session:
    """One folder there, the keeper in it, and the `adb shell` that leads to it, another one after a cut."""

    place: Place
    patience_s: float
    folder: str = ""
    _bundle: str = ""
    """Folder of the unpacked one there."""
    _started: bool = False
    _silent: bool = False
    """The line was let go of while it seemed to be up."""
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    """The one that makes the folder, and those of keepers, the last one in use."""
    _talk: Talk = field(init=False)

    def __post_init__(self) -> None:
        self._talk = Talk(self, str(self.place), self.patience_s)

    # --- its beginning and its end

    async def find(self) -> None:
        """Look for the device."""
        try:
            self.place = await adb.find(self.place)
        except CUT as error:
            raise DeviceUnreachable(f"adb does not answer: {error}", hint="does `adb devices` work?") from error
        self._talk = Talk(self, str(self.place), self.patience_s)

    async def open(self, guest: Path, engine: Path, needed: Bundle) -> None:
        """Copy all that is needed, start it, and get through to it."""
        try:
            self.folder = await self._make_folder()
            files = ((guest, "guest.py"), (engine, "engine.py"), (KEEPER, "keeper.py"))
            size_bytes = sum(file.stat().st_size for file, _ in files)
            await self._push([(file, os.fsencode(f"{self.folder}/{name}")) for file, name in files], size_bytes)
            self._bundle = await self._bring(needed)
            await self._start()
            await self._talk.attach()
            await self._end_maker()
        except CUT as error:
            hint = f"does `adb -s {shlex.quote(str(self.place))} shell true` work?"
            raise DeviceUnreachable(
                f"{self.place} does not answer: {str(error) or 'it is silent'}", hint=hint
            ) from error
        self._talk.begin()

    async def close(self, log: Path) -> None:
        """Leave nothing there; where the line is cut, the keeper sees to it alone."""
        await self._talk.stop_beating()
        with suppress(EdgekdError, *CUT):  # there may be no line, or nothing at its end
            async with asyncio.timeout(PARTING_TIMEOUT_S * 3):
                await self._finish(log)
        for process in self._processes:
            await adb.end(process)

    async def _finish(self, log: Path) -> None:
        if not self.folder:
            return
        for prepare in (self._nothing, self._reattach) if self._started else ():
            with suppress(*CUT):
                async with asyncio.timeout(PARTING_TIMEOUT_S):
                    await prepare()
                    await self._fetch_log(log)
                    await self._talk.farewell()
                    return
        await self._end_maker()
        await self._shell(f"rm -rf -- {shlex.quote(self.folder)}")

    async def _nothing(self) -> None:
        """Where the line is still up."""

    async def _reattach(self) -> None:
        self.abort()
        await self.renew()
        await self._talk.attach()

    async def _make_folder(self) -> str:
        maker = await self._begin(_MAKE_FOLDER)
        printed = b""
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while not printed.endswith(b"edgekd end\n"):
                if not (more := await _output(maker).read(READ_BYTES)):
                    raise Cut((await self._shell("true")).why or "its shell ended at once")
                printed += more
        found = re.search(rf"edgekd folder ({ABOVE}/edgekd-[A-Za-z0-9_]+)\n", printed.decode(errors="replace"))
        if not found:
            raise StorageError(
                f"{self.place} has no folder to write in", hint=f"{ABOVE} there may be full: see `adb shell df {ABOVE}`"
            )
        return found[1]

    async def _end_maker(self) -> None:
        """It deletes the folder where no keeper holds it."""
        if self._processes and (stdin := self._processes[0].stdin):
            stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(PARTING_TIMEOUT_S):
                    await self._processes[0].wait()

    async def _bring(self, needed: Bundle) -> str:
        """The folder there of the unpacked bundle, which may have been kept."""
        kept = f"{ABOVE}/edgekd.{needed.sha256[:16]}"
        if self.place.keep and not (await self._shell(f"[ -e {kept}/ready ]")).code:
            return kept
        what = f"copying a Python to {self.place}"
        tell(what, 0, 2)
        own = f"{self.folder}/bundle"
        await self._push([(needed.archive, os.fsencode(f"{own}.tar.gz"))], needed.packed_bytes + needed.bytes)
        tell(what, 1, 2)
        unpack = f"umask 077; mkdir {own} && zcat {own}.tar.gz | tar -x -f - -C {own} 2>&1 && rm {own}.tar.gz"
        done = await self._shell(f"{unpack} && touch {own}/ready")
        if done.code:
            await self._check_space(needed.bytes)
            raise StorageError(f"the bundle cannot be unpacked on {self.place}: {done.why}", hint="it needs Android 8")
        tell(what, 2, 2)
        if (await self._shell(f"{own}/{LOADER} --version >/dev/null")).code:
            machine = (await self._shell("uname -m")).why
            raise PluginUnavailable(
                f"{self.place} starts no programs of {ARCHITECTURE}; it is {machine}", hint="phones of 64-bit Arm do"
            )
        if not self.place.keep:
            return own
        moved = await self._shell(f"mv {own} {kept} || [ -e {kept}/ready ]")  # another one may have been faster
        return own if moved.code else kept

    async def _start(self) -> None:
        # the keeper is patient for as long as it takes this side to notice a cut, too
        done = await self._shell(self._python("start", str(self.patience_s * 2)))
        if "started" not in done.printed:
            raise DeviceUnreachable(f"the engine could not be started on {self.place}: {done.why}")
        self._started = True

    def _python(self, *arguments: str) -> str:
        """A script that executes the keeper; all that is loaded comes from the bundle."""
        there = self._bundle
        command = [f"{there}/{LOADER}", "--library-path", f"{there}/{LIBRARIES}", f"{there}/{PYTHON}", "-s"]
        variables = {
            "PYTHONPATH": f"{there}/{SITE}",
            "LANG": "C.UTF-8",
            "HOME": self.folder,
            "EDGEKD_PYTHON": json.dumps(command),
        }
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        called = shlex.join([*command, f"{self.folder}/keeper.py", *arguments])
        return f"unset LD_PRELOAD LD_LIBRARY_PATH; export {exports}; {called}"

    # --- the line: see `Line`

    cuts = CUT

    async def renew(self) -> None:
        """See `Line`."""
        if self.is_up():
            self.abort()
        try:
            if self._silent:
                away = (
                    ["disconnect", self.place.serial] if self.place.is_tcp else ["-s", self.place.serial, "reconnect"]
                )
                await adb.call(*away, timeout_s=PARTING_TIMEOUT_S)
                self._silent = False
            if (await adb.listed()).get(self.place.serial) != "device":
                if self.place.is_tcp:
                    await adb.connect(self.place)
                if (await adb.listed()).get(self.place.serial) != "device":
                    raise Cut("it is not attached")
        except DeviceUnreachable as error:
            raise Cut(str(error)) from error

    async def attach(self) -> "_Channel":
        """See `Line`."""
        if not self._started:
            raise Cut("there is no keeper yet")
        there = f"{self.folder}/keeper.py"
        return _Channel(await self._begin(f"[ -e {there} ] || exit {_NO_KEEPER}; {self._python('attach')}"))

    def abort(self) -> None:
        """See `Line`."""
        if self.is_up():
            self._silent = True
            with suppress(ProcessLookupError):
                self._processes[-1].kill()

    def is_up(self) -> bool:
        """See `Line`."""
        return len(self._processes) > 1 and self._processes[-1].returncode is None

    async def _begin(self, script: str) -> asyncio.subprocess.Process:
        process = await adb.start("-s", self.place.serial, "shell", "-T", script, heard=False)
        self._processes.append(process)
        return process

    async def _shell(self, script: str) -> adb.Done:
        """What a script does there.

        Raises:
            Cut: it was not executed to its end.
        """
        wrapped = f"(\n{script}\n)\ncode=$?; echo; echo edgekd code $code"
        timeout_s = self.patience_s / 2 if self._started else COMMAND_TIMEOUT_S
        done = await adb.call("-s", self.place.serial, "shell", "-T", wrapped, timeout_s=timeout_s)
        printed, marker, code = done.printed.rpartition("\nedgekd code ")
        if not marker or not code.strip().isdigit():
            raise Cut(done.why)
        return adb.Done(int(code), printed, done.complained)

    async def inquire(self, script: str) -> str:
        """What a script prints that only tells of the device; "" where the line is cut."""
        with suppress(*CUT):
            return (await self._shell(script)).printed
        return ""

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """See `Talk`."""
        return await self._talk.ask(request, timeout_s)

    # --- files

    async def upload(self, file: Path, folder: str, name: str, size_bytes: int) -> None:
        """See `Session`."""
        below = f"{self.folder}/{folder}"
        pairs = [(part, renamed(file, part, f"{below}/{name}")) for part in members(file)]
        await self._talk.steadily(lambda: self._push(pairs, size_bytes))

    async def _push(self, pairs: Sequence[tuple[Path, bytes]], size_bytes: int) -> None:
        await self._check_space(size_bytes)
        for here, there in pairs:
            await self._copy("push", str(here.absolute()), os.fsdecode(there), here.stat().st_size)
        if await self._digest([os.fsdecode(there) for _, there in pairs]) != _digest([here for here, _ in pairs]):
            await self._check_space(size_bytes)
            raise Cut("what came through is not what was sent")

    async def _copy(self, verb: str, source: str, sink: str, size_bytes: int) -> None:
        timeout_s = self.patience_s / 2 + size_bytes / SLOWEST_BYTES_PER_S  # the keeper waits for four times the former
        done = await adb.call("-s", self.place.serial, verb, source, sink, timeout_s=timeout_s)
        if not done.code:
            return
        if verb == "push" and any(sign in done.why for sign in _FULL):
            await self._check_space(size_bytes)
        if any(sign in done.why for sign in (*_FULL, *_CLOSED)):
            place = str(self.place) if verb == "push" else "this machine"
            raise StorageError(f"cannot write on {place}: {done.why}", hint="see `df` there")
        raise Cut(done.why)

    async def _digest(self, names: Sequence[str]) -> str:
        """SHA-256 of files there, one after the other; "" where one is missing."""
        done = await self._shell(f"cat -- {shlex.join(names)} | sha256sum")
        return "" if "cat:" in done.complained else done.printed.strip().partition(" ")[0]

    async def _check_space(self, size_bytes: int) -> None:
        shown = (await self._shell(f"df -Pk {shlex.quote(self.folder)}")).printed
        found = re.search(r"\s\d+\s+\d+\s+(-?\d+)\s+\d+%\s", shown)
        free_bytes = max(0, int(found[1])) * 1024 if found else size_bytes + SPARE_BYTES
        if free_bytes < size_bytes + SPARE_BYTES:
            raise StorageError(
                f"the disk of {self.place} is full: {free_bytes:,} bytes are free, {size_bytes:,} are needed",
                hint=f"free some space below {posixpath.dirname(self.folder)} there",
            )

    async def discard(self, folder: str) -> None:
        """See `Session`."""
        await self._talk.steadily(lambda: self._shell(f"rm -rf -- {shlex.quote(folder)}"))

    async def download(self, there: str, file: Path) -> None:
        """See `Session`."""
        partial = file.with_name(f"{file.name}.partial")
        try:
            with storage_errors(file):
                await self._talk.steadily(lambda: self._pull(there, partial))
                partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    async def _pull(self, there: str, file: Path) -> None:
        if (await self._shell(f"[ -f {shlex.quote(there)} ]")).code:
            raise MeasureError(f"cannot read {there} on {self.place}: there is no such file")
        size_bytes = int((await self._shell(f"wc -c < {shlex.quote(there)}")).printed)
        await self._copy("pull", there, str(file.absolute()), size_bytes)
        if await self._digest([there]) != file_digest(file):
            raise Cut("what came through is not what was sent")

    async def _fetch_log(self, log: Path) -> None:
        """What the engine printed, its end where it is long."""
        printed = (await self._shell(f"tail -c {LOG_BYTES} {shlex.quote(self.folder)}/engine.log")).printed
        with suppress(OSError), log.open("a", encoding="utf-8") as opened:
            opened.write(printed)


@dataclass
class _Channel:
    """See `Channel`."""

    process: asyncio.subprocess.Process

    def write(self, chunk: bytes) -> None:
        if self.process.returncode is not None or self.process.stdin is None:
            raise Cut("the line was cut")
        self.process.stdin.write(chunk)

    async def read(self) -> bytes:
        return await _output(self.process).read(READ_BYTES)

    async def failed(self) -> bool:
        return await self.process.wait() == _NO_KEEPER


_NO_KEEPER: Final = 3
"""Exit code of what looks for a keeper; 1 and 255 are of adb."""


def _output(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise Cut("the line was cut")
    return process.stdout


def _digest(files: Sequence[Path]) -> str:
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while chunk := opened.read(READ_BYTES):
                sha.update(chunk)
    return sha.hexdigest()


PLUGIN: Final[Device] = Adb()
