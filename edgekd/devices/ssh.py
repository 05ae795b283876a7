"""Another machine, reached over SSH: ssh://user@host[:port][?python=/path/of/python3].

It needs an SSH server with SFTP, Python 3.8, numpy and the engine's runtime; nothing is installed there. All that is
copied lies in one folder below the user's cache, which is gone afterwards. The engine does not notice when the line is
cut: `_keeper.py` holds it there, and its answer, until this side is back.
"""

import asyncio
import json
import os
import posixpath
import re
import shlex
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import asyncssh

from edgekd.devices import Connection, Device
from edgekd.devices._line import CUT, Cut, Place, connect
from edgekd.environments import packages_of
from edgekd.errors import ConfigError, DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable, StorageError
from edgekd.files import content, members, storage_errors
from edgekd.specs import Provenance

KEEPER: Final = Path(__file__).with_name("_keeper.py")
COMMAND_TIMEOUT_S: Final = 120.0
LOG_BYTES: Final = 1 << 20
SPARE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 16
LONGEST_ANSWER_BYTES: Final = 1 << 28
ATTEMPTS: Final = 20
"""To copy one file, each after a cut."""

T = TypeVar("T")

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
        with _background() as do:
            try:
                do(session.open(guest, engine))
                yield _SshConnection(session, do, scratch / "engine.log")
            finally:
                do(session.close(scratch / "engine.log"))


Do = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def _background() -> Iterator[Do]:
    """Executes coroutines one after the other in a thread, where the line is kept alive in between."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        over, running = asyncio.Event(), asyncio.get_running_loop()
        running.set_exception_handler(_report)
        begun.set_result((running, over))
        await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="edgekd-ssh", daemon=True)
    thread.start()
    loop, over = begun.result()

    def do(work: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        finally:
            future.cancel()  # where Ctrl-C came

    try:
        yield do
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what nobody waited for, unless it is one more block of a file whose copying was cut."""
    if not isinstance(context.get("exception"), CUT):
        loop.default_exception_handler(context)


class _SshConnection:
    def __init__(self, session: "_Session", do: Do, log: Path) -> None:
        self._session, self._do, self._log = session, do, log
        self._there: dict[tuple[str, str], str] = {}
        """Content and ending of what was put -> path there."""
        self._put: dict[Path, str] = {}
        """The same, by the file's name here."""
        self._count = 0
        self._made: dict[str, str] = {}
        """What the guest is to write: name that was asked for -> path there."""

    def put(self, file: Path) -> str:
        if not file.exists():
            raise ConfigError(f"{file} is not there")
        size_bytes, sha256 = content(file)
        suffix = file.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", file.suffix) else ""  # what engines go by
        known = (sha256, suffix)
        if known not in self._there:
            folder = f"{self._count}-{sha256[:16]}"
            self._count += 1
            self._do(self._session.upload(file, folder, f"model{suffix}", size_bytes))
            self._there[known] = f"{self._session.folder}/{folder}/model{suffix}"
        before, self._put[file] = self._put.get(file), self._there[known]
        if before and before not in self._put.values():  # another content of that name, and a device's disk is small
            self._there = {key: path for key, path in self._there.items() if path != before}
            self._do(self._session.discard(posixpath.dirname(before)))
        return self._put[file]

    def get(self, name: str, file: Path) -> None:
        there = self._made.get(name, name)
        if there not in {*self._put.values(), *self._made.values()}:
            raise ConfigError(f"{name} was neither put on {self._session.place} nor written there")
        self._do(self._session.download(there, file))

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if "outputs" in request:  # it is named as a file of this machine; `get` knows it by that name
            made = self._made.setdefault(request["outputs"], f"{self._session.folder}/tmp/{len(self._made)}.npz")
            request = {**request, "outputs": made}
        told = self._do(self._session.ask(request, timeout_s))
        if "answer" not in told:
            raise MeasureError(f"the engine {told['why']} on `{request['do']}`", hint=self._hint())
        answer: dict[str, Any] = told["answer"]
        if not answer["ok"]:
            raise MeasureError(f"the engine failed on `{request['do']}`: {(answer['error'].splitlines() or [''])[0]}")
        return answer

    def _hint(self) -> str:
        return f"what it printed is in {self._log}"


@dataclass
class _Session:
    """One folder there, the keeper in it, and the line to it, which may be another one after a cut."""

    place: Place
    patience_s: float
    folder: str = ""
    _maker: "asyncssh.SSHClientProcess[str] | None" = None
    _python: str = ""
    _line: asyncssh.SSHClientConnection | None = None
    _keeper: "asyncssh.SSHClientProcess[bytes] | None" = None
    _partial: bytearray = field(default_factory=bytearray)
    """Of what the keeper says, what is no whole line yet."""
    _number: int = 0
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pulse: "asyncio.Task[None] | None" = None

    # --- its beginning and its end

    async def open(self, guest: Path, engine: Path) -> None:
        """Copy all that is needed, start it, and get through to it."""
        try:
            self._line = await connect(self.place, self.patience_s / 8)
            self.folder = await self._make_folder()
            for file, name in ((guest, "guest.py"), (engine, "engine.py"), (KEEPER, "keeper.py")):
                await self._send([(file, f"{self.folder}/{name}")], file.stat().st_size)
            self._python = await self._find_python(engine)
            await self._start()
            await self._attach()
            if self._maker:
                self._maker.stdin.write_eof()
        except (*CUT, asyncssh.Error) as error:
            hint = f"is it on, and does `{self.place.command()}` log in?"
            raise DeviceUnreachable(f"{self.place} does not answer: {error}", hint=hint) from error
        self._pulse = asyncio.create_task(self._beat())

    async def close(self, log: Path) -> None:
        """Leave nothing there; where the line is cut, the keeper sees to it alone."""
        if self._pulse:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)
        try:
            async with asyncio.timeout(20):
                await self._finish(log)
        except (*CUT, EdgekdError, asyncssh.Error):
            pass  # there is no line, or nothing at its end
        finally:
            if self._line:
                self._line.abort()

    async def _finish(self, log: Path) -> None:
        if self._line is None or not self.folder:
            return
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._fetch_log(log)
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._farewell()
                return
        if self._line.is_closed() or self._python:  # it may be silent
            self._line.abort()
            self._line = await connect(self.place, self.patience_s / 8)
        with suppress(*CUT):
            async with asyncio.timeout(5):
                await self._attach()
                await self._farewell()
                return
        await self._shell(f"rm -rf -- {shlex.quote(self.folder)}")

    async def _farewell(self) -> None:
        await self._tell({"end": True})
        while "bye" not in (told := await self._told()):
            if "gone" in told:
                raise Cut("there is no keeper")

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

    async def _attach(self) -> None:
        """Get through to the keeper.

        Raises:
            Cut: the line was cut, or no keeper was started yet.
        """
        if not self._python:
            raise Cut("there is no keeper yet")
        command = shlex.join([self._python, f"{self.folder}/keeper.py", "attach"])
        self._keeper = await self._open_line().create_process(command, encoding=None)
        self._partial.clear()

    async def _shell(self, script: str) -> tuple[int, str]:
        """Exit code and output; the script is read from standard input, so the login shell does not matter."""
        done = await self._open_line().run("sh -s", input=script, errors="replace", timeout=COMMAND_TIMEOUT_S)
        return (1 if done.exit_status is None else done.exit_status), str(done.stdout)

    def _open_line(self) -> asyncssh.SSHClientConnection:
        if self._line is None or self._line.is_closed():
            raise Cut("the line was cut")
        return self._line

    # --- requests

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """{"answer": ...} of the guest, or {"why": ...} there is none.

        A request that is asked again after a cut has the number that it had, and the keeper gives it to the guest once.

        Raises:
            DeviceUnreachable: the line was cut, and did not come back.
        """
        self._number += 1
        asked = {"number": self._number, "request": request}
        deadline = time.monotonic() + timeout_s
        given_up = deadline + self.patience_s
        async with self._busy:
            while True:
                try:
                    await self._tell(asked)
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        told = await self._told(self._number)
                except CUT as error:
                    if isinstance(error, TimeoutError) and (told := await self._stop()):
                        return told
                    if time.monotonic() > given_up:
                        raise self._lost() from error
                    await self._mend()
                    deadline = max(deadline, time.monotonic() + 10)  # the answer may have been ready for long
                    continue
                if "gone" in told:
                    return {"why": "was ended from outside, maybe for want of memory,"}
                return told if "answer" in told else {"why": f"crashed (exit code {told['ended']})"}

    async def _stop(self) -> dict[str, Any]:
        """End the guest, which took too long: its answer where that came after all, {} where the line is silent."""
        with suppress(*CUT):
            await self._tell({"stop": True})
            async with asyncio.timeout(self.patience_s / 2):
                told = await self._told(self._number)
            return told if "answer" in told else {"why": "hung, and was ended,"}
        return {}

    async def _tell(self, what: dict[str, Any]) -> None:
        if self._keeper is None:
            raise Cut("the line was cut")
        self._keeper.stdin.write(json.dumps(what).encode() + b"\n")

    async def _told(self, number: int = 0) -> dict[str, Any]:
        """What the keeper says next, of a request where one is numbered.

        Raises:
            Cut: the line ended.
        """
        while True:
            line = await self._next_line()
            if line is None:
                return {"gone": True}
            told = _read(line)
            if told and (told.get("number", number) == number or not number):
                return told

    async def _next_line(self) -> bytes | None:
        """None where there is a line, and no keeper at its end; asyncssh's own lines have 2 MB at most.

        Raises:
            Cut: the line ended.
        """
        if self._keeper is None:
            raise Cut("the line was cut")
        while b"\n" not in self._partial[-READ_BYTES:]:
            chunk = await self._keeper.stdout.read(READ_BYTES)
            if not chunk:
                await self._keeper.wait_closed()
                if (self._keeper.exit_status or 0) > 0:
                    return None
                raise Cut("the line was cut")
            self._partial += chunk
            if len(self._partial) > LONGEST_ANSWER_BYTES:
                raise MeasureError(f"{self.place} answers without end")
        line, _, rest = bytes(self._partial).partition(b"\n")
        self._partial[:] = rest
        return line

    async def _mend(self) -> None:
        """Get through to the keeper again.

        Raises:
            DeviceUnreachable: in `patience_s` seconds it did not succeed, or the host key is another one now.
        """
        since, pause_s = time.monotonic(), 0.1
        if self._line:
            self._line.abort()
        while True:
            try:
                self._line = await connect(self.place, self.patience_s / 8)
                await self._attach()
            except CUT as error:
                if time.monotonic() - since + pause_s > self.patience_s:
                    raise self._lost() from error
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 10.0)
            else:
                return

    def _lost(self) -> DeviceUnreachable:
        return DeviceUnreachable(
            f"the line to {self.place} was cut, and did not come back in {self.patience_s:g} s",
            hint="the engine there ends by itself; measure again when the line holds",
        )

    async def _beat(self) -> None:
        """Let the keeper hear that this side lives, whatever the caller does between two requests."""
        while True:
            await asyncio.sleep(self.patience_s / 6)
            try:
                await self._tell({"alive": True})
                cut = self._line is None or self._line.is_closed()
            except CUT:
                cut = True
            if cut and not self._busy.locked():
                async with self._busy:
                    with suppress(EdgekdError):  # the next request says so
                        await self._mend()

    # --- files

    async def upload(self, file: Path, folder: str, name: str, size_bytes: int) -> None:
        """Copy a model's files to a new folder below ours.

        Raises:
            StorageError: the disk there is full.
            DeviceUnreachable: the line was cut, and did not come back.
        """
        below = f"{self.folder}/{folder}"
        pairs = [(part, _renamed(file, part, f"{below}/{name}")) for part in members(file)]
        await self._steadily(lambda: self._send(pairs, size_bytes))

    async def _send(self, pairs: Sequence[tuple[Path, str | bytes]], size_bytes: int) -> None:
        async with await self._sftp() as sftp:
            await self._check_space(sftp, size_bytes)
            try:
                for here, there in pairs:
                    await sftp.makedirs(posixpath.dirname(there), exist_ok=True)
                    await sftp.put(os.fsencode(here), there)
            except (asyncssh.SFTPFailure, asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
                await self._check_space(sftp, size_bytes)
                raise StorageError(f"cannot write on {self.place}: {error}", hint="see `df` there") from error
            except (asyncssh.SFTPPermissionDenied, asyncssh.SFTPNoSuchFile) as error:
                raise StorageError(f"cannot write on {self.place}: {error}", hint="whose folder is it?") from error

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
        """Delete what was copied."""

        async def remove() -> None:
            async with await self._sftp() as sftp:
                await sftp.rmtree(folder, ignore_errors=True)

        await self._steadily(remove)

    async def download(self, there: str, file: Path) -> None:
        """Fetch a file; it is there whole or not at all.

        Raises:
            MeasureError: there is no such file.
            StorageError: the disk here is full.
            DeviceUnreachable: the line was cut, and did not come back.
        """
        partial = file.with_name(f"{file.name}.partial")
        try:
            with storage_errors(file):
                await self._steadily(lambda: self._fetch(there, partial))
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

    async def _steadily(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what can be done again after a cut."""
        async with self._busy:
            for _ in range(ATTEMPTS):
                try:
                    return await work()
                except CUT:
                    await self._mend()
        raise self._lost()


def _renamed(file: Path, part: Path, there: str) -> str | bytes:
    """Where a part of a model goes: beside it by its ending, or below it by its name in the folder."""
    if part == file:
        return there
    if file.is_dir():
        return os.fsencode(there) + b"/" + os.fsencode(part.relative_to(file))
    return posixpath.splitext(there)[0] + part.suffix


def _probed(printed: str) -> dict[str, Any]:
    """What a Python said of itself; one that could not even read the question is too old."""
    path, _, rest = printed.partition("\n")
    for line in rest.splitlines():
        if found := _read(line):
            return {**found, "python": found["python"] or path}
    return {"python": path, "lacks": ["Python 3.8"]}


def _read(line: str | bytes) -> dict[str, Any]:
    """What a line of the keeper says; {} where it is not of the keeper, for login scripts may print."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


PLUGIN: Final[Device] = Ssh()
