"""Another machine, reached over SSH: ssh://user@host[:port][?python=/path/of/python3].

It needs an SSH server with SFTP, Python 3.8, numpy and the engine's runtime; nothing is installed there. All that is
copied lies in one folder below the user's cache, which is gone afterwards. The engine does not notice when the line is
cut: `_keeper.py` holds it there, and its answer, until this side is back.
"""

import asyncio
import os
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import asyncssh

from edgekd.devices import Connection, Device
from edgekd.devices._held import KEEPER, LOG_BYTES, READ_BYTES, SPARE_BYTES, Cut, Held, Talk, background, read, renamed
from edgekd.devices._line import CUT, FAILED, Place, connect
from edgekd.environments import packages_of
from edgekd.errors import DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable, StorageError
from edgekd.files import members, storage_errors
from edgekd.progress import tell
from edgekd.specs import Provenance

COMMAND_TIMEOUT_S: Final = 120.0
MEGABYTE: Final = 10**6
LARGE_BYTES: Final = 8 * MEGABYTE
"""From which on it is told how far a file is."""

_MAKE_FOLDER: Final = """
make() {
  umask 077
  for above in "$XDG_CACHE_HOME" "$HOME/.cache" "$TMPDIR" /tmp; do
    case "$above" in /*) ;; *) continue ;; esac
    [ -d "$above" ] && [ -w "$above" ] || continue
    folder=$(mktemp -d "$above/edgekd-$(uname -n | tr -cd A-Za-z0-9)-XXXXXXXX") || continue
    printf 'edgekd folder %s\\nedgekd end\\n' "$folder"
    cat >/dev/null
    [ -e "$folder/lock" ] || rm -rf -- "$folder"
    exit 0
  done
  printf 'edgekd end\\n'
  exit 1
}
make
"""
"""It stays until its standard input ends, by a cut too, and leaves a folder behind only to a keeper that holds it."""

_FIND_PYTHON: Final = """
for python in {candidates}; do
  found=$(command -v "$python" 2>/dev/null) || continue
  printf 'edgekd python %s\\n' "$found"
  "$found" {keeper} probe {engine} </dev/null 2>/dev/null && exit 0
done
exit 1
"""


@dataclass
class Ssh:
    """See edgekd/devices/__init__.py."""

    provenance: Provenance = "measured"
    patience_s: float = 90.0
    """How long a cut line is waited for."""

    @contextmanager
    def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
        session = _Session(Place.of(address), self.patience_s)
        with background("edgekd-ssh", CUT) as do:
            try:
                do(session.open(guest, engine))
                yield Held(session, do, scratch / "engine.log", str(session.place))
            finally:
                do(session.close(scratch / "engine.log"))


@dataclass
class _Session:
    """One folder there, the keeper in it, and the line to it, which may be another one after a cut."""

    place: Place
    patience_s: float
    folder: str = ""
    _maker: "asyncssh.SSHClientProcess[str] | None" = None
    _python: str = ""
    _line: asyncssh.SSHClientConnection | None = None
    _talk: Talk = field(init=False)

    def __post_init__(self) -> None:
        self._talk = Talk(self, str(self.place), self.patience_s)

    # --- its beginning and its end

    async def open(self, guest: Path, engine: Path) -> None:
        """Copy all that is needed, start it, and get through to it."""
        try:
            self._line = await connect(self.place, self.patience_s / 8)
            self.folder = await self._make_folder()
            for file, name in ((guest, "guest.py"), (engine, "engine.py"), (KEEPER, "keeper.py")):
                await self._send([(file, os.fsencode(f"{self.folder}/{name}"))], file.stat().st_size)
            self._python = await self._find_python(engine)
            await self._start()
            await self._talk.attach()
            if self._maker:
                self._maker.stdin.write_eof()
        except FAILED as error:
            hint = f"is it on, and does `{self.place.command()}` log in?"
            raise DeviceUnreachable(f"{self.place} does not answer: {error}", hint=hint) from error
        self._talk.begin()

    async def close(self, log: Path) -> None:
        """Leave nothing there; where the line is cut, the keeper sees to it alone."""
        await self._talk.stop_beating()
        with suppress(EdgekdError, *FAILED):  # there may be no line, or nothing at its end
            async with asyncio.timeout(20):
                await self._finish(log)
        self.abort()

    async def _finish(self, log: Path) -> None:
        if self._line is None or not self.folder:
            return
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._fetch_log(log)
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._talk.farewell()
                return
        if self._line.is_closed() or self._python:  # it may be silent
            self.abort()
            await self.renew()
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._talk.attach()
                await self._talk.farewell()
                return
        await self._shell(f"rm -rf -- {shlex.quote(self.folder)}")

    async def _make_folder(self) -> str:
        self._maker = maker = await self._open_line().create_process("sh -s", errors="replace")
        maker.stdin.write(_MAKE_FOLDER)
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            printed = ""
            while not printed.endswith("edgekd end\n"):
                if not (more := await maker.stdout.read(READ_BYTES)):
                    raise Cut("its shell ended at once")
                printed += more
        folder = printed.partition("edgekd folder ")[2].removesuffix("\nedgekd end\n")
        if not folder:
            raise StorageError(f"{self.place} has no folder to write in", hint="it may be full: see `df` there")
        return folder

    async def _find_python(self, engine: Path) -> str:
        """The first Python there that can execute the engine.

        Raises:
            PluginUnavailable: there is none; the hint is the command that makes one.
        """
        own = "/.local/share/edgekd/" + (engine.stem if re.fullmatch(r"\w+", engine.stem, re.ASCII) else "engine")
        usual = ["python3", "/opt/homebrew/bin/python3", "/usr/local/bin/python3"]
        home, rest = ('"$HOME"', self.place.python[1:]) if self.place.python.startswith("~/") else ("", "")
        if self.place.python:
            candidates = [home + shlex.quote(rest or self.place.python)]
        else:
            candidates = [f'"$HOME"{shlex.quote(own + "/bin/python")}', *usual]
        script = _FIND_PYTHON.format(
            candidates=" ".join(candidates),
            keeper=shlex.quote(f"{self.folder}/keeper.py"),
            engine=shlex.quote(f"{self.folder}/engine.py"),
        )
        code, printed = await self._shell(script)
        tried = [_probed(part) for part in printed.split("edgekd python ")[1:]]
        if not code and tried:
            return str(tried[-1]["python"])
        raise self._no_python(engine, tried, own)

    def _no_python(self, engine: Path, tried: Sequence[dict[str, Any]], own: str) -> PluginUnavailable:
        needs = next((one["needs"] for one in tried if one.get("needs")), "")
        if needs:
            return PluginUnavailable(f"the engine {engine.stem} needs {needs}, which {self.place} is not")
        if all("Python 3.8" in one["lacks"] for one in tried):
            wanted = self.place.python or "python3"
            return PluginUnavailable(
                f"{self.place} has no {wanted} that is Python 3.8 or newer",
                hint=f"install one there, or name it: {self.place.address}?python=/path/of/python3",
            )
        lacks = dict.fromkeys(name for one in tried for name in one["lacks"] if name != "Python 3.8")
        packages = packages_of(engine) or tuple(dict.fromkeys(["numpy", *(name.replace("_", "-") for name in lacks)]))
        made = "~" + own
        install = f"python3 -m venv {made} && {made}/bin/pip install {shlex.join(packages)}"
        if self.place.python:
            python = self.place.python if self.place.python.startswith("~/") else shlex.quote(self.place.python)
            install = f"{python} -m pip install {shlex.join(packages)}"
        which = "; ".join(f"{one['python']} lacks {', '.join(one['lacks'])}" for one in tried)
        return PluginUnavailable(
            f"no Python on {self.place} executes {engine.stem}: {which}", hint=self.place.command(install)
        )

    async def _start(self) -> None:
        # the keeper is patient for as long as it takes this side to notice a cut, too
        command = [self._python, f"{self.folder}/keeper.py", "start", str(self.patience_s * 2)]
        done = await self._open_line().run(shlex.join(command), timeout=COMMAND_TIMEOUT_S)
        if "started" not in str(done.stdout):
            last = (str(done.stderr).strip().splitlines() or ["it said nothing"])[-1]
            raise DeviceUnreachable(f"the engine could not be started on {self.place}: {last}")

    # --- the line: see `Line`

    cuts = CUT

    async def renew(self) -> None:
        """See `Line`."""
        self._line = await connect(self.place, self.patience_s / 8)

    async def attach(self) -> "_Channel":
        """See `Line`."""
        if not self._python:
            raise Cut("there is no keeper yet")
        command = shlex.join([self._python, f"{self.folder}/keeper.py", "attach"])
        return _Channel(await self._open_line().create_process(command, encoding=None))

    def abort(self) -> None:
        """See `Line`."""
        if self._line:
            self._line.abort()

    def is_up(self) -> bool:
        """See `Line`."""
        return self._line is not None and not self._line.is_closed()

    async def _shell(self, script: str) -> tuple[int, str]:
        """Exit code and output; the script is read from standard input, so the login shell does not matter."""
        done = await self._open_line().run("sh -s", input=script, errors="replace", timeout=COMMAND_TIMEOUT_S)
        return (1 if done.exit_status is None else done.exit_status), str(done.stdout)

    def _open_line(self) -> asyncssh.SSHClientConnection:
        if self._line is None or self._line.is_closed():
            raise Cut("the line was cut")
        return self._line

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """See `Talk`."""
        return await self._talk.ask(request, timeout_s)

    # --- files

    async def upload(self, file: Path, folder: str, name: str, size_bytes: int) -> None:
        """See `Session`."""
        below = f"{self.folder}/{folder}"
        pairs = [(part, renamed(file, part, f"{below}/{name}")) for part in members(file)]
        await self._talk.steadily(lambda: self._send(pairs, size_bytes))

    async def _send(self, pairs: Sequence[tuple[Path, bytes]], size_bytes: int) -> None:
        async with await self._sftp() as sftp:
            await self._check_space(sftp, size_bytes)
            try:
                for here, there in pairs:
                    await sftp.makedirs(posixpath.dirname(there), exist_ok=True)
                    await sftp.put(os.fsencode(here), there, progress_handler=self._progress(here))
            except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
                await self._check_space(sftp, size_bytes)
                raise StorageError(f"cannot write on {self.place}: {error}", hint="see `df` there") from error
            except (asyncssh.SFTPPermissionDenied, asyncssh.SFTPNoSuchFile) as error:
                raise StorageError(f"cannot write on {self.place}: {error}", hint="whose folder is it?") from error

    def _progress(self, file: Path) -> Callable[[bytes, bytes, int, int], None] | None:
        """Tells how many megabytes of a large file are through."""
        if file.stat().st_size < LARGE_BYTES:
            return None
        what = f"copying {file.name} to {self.place}, MB"
        return lambda _, __, copied, total: tell(what, copied // MEGABYTE, total // MEGABYTE)

    async def _sftp(self) -> asyncssh.SFTPClient:
        try:
            return await self._open_line().start_sftp_client()
        except asyncssh.ChannelOpenError as error:
            if self._python:  # there was one before
                raise
            raise PluginUnavailable(
                f"the SSH server of {self.place} has no SFTP", hint="there: apt install openssh-sftp-server"
            ) from error
        except asyncssh.SFTPBadMessage as error:
            raise PluginUnavailable(
                f"SFTP is garbled on {self.place}", hint="a start-up file of its login shell must print nothing"
            ) from error

    async def _check_space(self, sftp: asyncssh.SFTPClient, size_bytes: int) -> None:
        try:
            disk = await sftp.statvfs(self.folder)
        except asyncssh.SFTPOpUnsupported:
            return
        free_bytes = disk.bavail * disk.frsize
        if free_bytes < size_bytes + SPARE_BYTES:
            raise StorageError(
                f"the disk of {self.place} is full: {free_bytes:,} bytes are free, {size_bytes:,} are needed",
                hint=f"free some space below {posixpath.dirname(self.folder)} there",
            )

    async def discard(self, folder: str) -> None:
        """See `Session`."""

        async def remove() -> None:
            async with await self._sftp() as sftp:
                await sftp.rmtree(folder, ignore_errors=True)

        await self._talk.steadily(remove)

    async def download(self, there: str, file: Path) -> None:
        """See `Session`."""
        partial = file.with_name(f"{file.name}.partial")
        try:
            with storage_errors(file):
                await self._talk.steadily(lambda: self._fetch(there, partial))
                partial.replace(file)
        except asyncssh.SFTPError as error:
            raise MeasureError(f"cannot read {there} on {self.place}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    async def _fetch(self, there: str, file: Path) -> None:
        async with await self._sftp() as sftp:
            await sftp.get(there, os.fsencode(file))

    async def _fetch_log(self, log: Path) -> None:
        """What the engine printed, its end where it is long."""
        with suppress(asyncssh.SFTPError, OSError):
            async with (
                self._open_line().start_sftp_client() as sftp,
                sftp.open(f"{self.folder}/engine.log", "rb") as read,
            ):
                size_bytes = (await read.stat()).size or 0
                await read.seek(max(0, size_bytes - LOG_BYTES))
                printed = await read.read(LOG_BYTES)
            with log.open("ab") as opened:
                opened.write(cast(bytes, printed))


@dataclass
class _Channel:
    """See `Channel`."""

    process: "asyncssh.SSHClientProcess[bytes]"

    def write(self, chunk: bytes) -> None:
        self.process.stdin.write(chunk)

    async def read(self) -> bytes:
        return await self.process.stdout.read(READ_BYTES)  # asyncssh's own lines have 2 MB at most

    async def failed(self) -> bool:
        await self.process.wait_closed()
        return (self.process.exit_status or 0) > 0


def _probed(printed: str) -> dict[str, Any]:
    """What a Python said of itself; one that could not even read the question is too old."""
    path, _, rest = printed.partition("\n")
    for line in rest.splitlines():
        if found := read(line):
            return {**found, "python": found["python"] or path}
    return {"python": path, "lacks": ["Python 3.8"]}


PLUGIN: Final[Device] = Ssh()
