"""A guest that `_keeper.py` holds on another machine, where it does not notice when the line is cut.

What the devices behind lines share: a connection for whoever measures, and the conversation with the keeper.
"""

import asyncio
import json
import os
import posixpath
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from edgekd.errors import ConfigError, DeviceUnreachable, EdgekdError, MeasureError
from edgekd.files import content

KEEPER: Final = Path(__file__).with_name("_keeper.py")
READ_BYTES: Final = 1 << 16
LONGEST_ANSWER_BYTES: Final = 1 << 28
LOG_BYTES: Final = 1 << 20
"""Of the end of what an engine printed."""
SPARE_BYTES: Final = 1 << 20
"""Of a disk there, besides what is copied to it."""
FIRST_TIMEOUT_S: Final = 60.0
"""To get through to a keeper that has just been started."""
ATTEMPTS: Final = 20
"""To copy one file, each after a cut."""

T = TypeVar("T")


class Cut(Exception):
    """The line is cut, or not there; another try may find it again."""


class Channel(Protocol):
    """Standard input and output of a keeper's `attach`; each raises what is in `Line.cuts` where the line is cut."""

    def write(self, chunk: bytes) -> None:
        """Send bytes, at some time."""

    async def read(self) -> bytes:
        """What came; b"" at the end."""

    async def failed(self) -> bool:
        """True where the end was one of `attach` itself, with an exit code, and not of the line."""


class Line(Protocol):
    """A way to a machine, which may be another one after a cut."""

    cuts: tuple[type[Exception], ...]
    """What is raised where it is cut."""

    async def renew(self) -> None:
        """Get through again.

        Raises:
            DeviceUnreachable: that cannot be waited for.
            Exception: one of `cuts`.
        """

    async def attach(self) -> Channel:
        """The keeper's ear and mouth, as `renew` raises."""

    def abort(self) -> None:
        """Let go of the line, if there is one; nothing is waited for."""

    def is_up(self) -> bool:
        """False where it is known to be cut."""


Do = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def background(name: str, quiet: tuple[type[Exception], ...]) -> Iterator[Do]:
    """Executes coroutines one after the other in a thread, where the line is kept alive in between.

    Of errors that nobody waited for, those in `quiet` are not told: they are of a copying that was cut.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), quiet):
            loop.default_exception_handler(context)

    async def live() -> None:
        over, running = asyncio.Event(), asyncio.get_running_loop()
        running.set_exception_handler(report)
        begun.set_result((running, over))
        await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name=name, daemon=True)
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


class Session(Protocol):
    """One folder on a machine, and the keeper in it."""

    folder: str

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """See `Talk.ask`."""

    async def upload(self, file: Path, folder: str, name: str, size_bytes: int) -> None:
        """Copy a model's files to a new folder below ours.

        Raises:
            StorageError: the disk there is full.
            DeviceUnreachable: the line was cut, and did not come back.
        """

    async def discard(self, folder: str) -> None:
        """Delete what was copied."""

    async def download(self, there: str, file: Path) -> None:
        """Fetch a file; it is there whole or not at all.

        Raises:
            MeasureError: there is no such file.
            StorageError: the disk here is full.
            DeviceUnreachable: the line was cut, and did not come back.
        """


class Held:
    """A connection to the guest of a session: see `edgekd.devices.Connection`."""

    def __init__(self, session: Session, do: Do, log: Path, place: str) -> None:
        self._session, self._do, self._log, self._place = session, do, log, place
        self._there: dict[tuple[str, str], str] = {}
        """Content and ending of what was put -> path there."""
        self._put: dict[Path, str] = {}
        """The same, by the file's name here."""
        self._count = 0
        self._made: dict[str, str] = {}
        """What the guest is to write: name that was asked for -> path there."""

    def put(self, file: Path) -> str:
        """See `Connection`; names of files never leave this machine."""
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
        """See `Connection`."""
        there = self._made.get(name, name)
        if there not in {*self._put.values(), *self._made.values()}:
            raise ConfigError(f"{name} was neither put on {self._place} nor written there")
        self._do(self._session.download(there, file))

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """See `Connection`."""
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


class _Gone:
    """A channel to a machine where no keeper is: see `Channel`."""

    def write(self, chunk: bytes) -> None:
        pass

    async def read(self) -> bytes:
        return b'{"gone": true}\n'

    async def failed(self) -> bool:
        return True


class Talk:
    """The conversation with a keeper over a line: every request is given to the guest once, whatever is cut."""

    def __init__(self, line: Line, place: str, patience_s: float) -> None:
        self._line, self._place, self.patience_s = line, place, patience_s
        self._channel: Channel | None = None
        self._partial = bytearray()
        """Of what the keeper says, what is no whole line yet."""
        self._number = 0
        self._busy = asyncio.Lock()
        self._pulse: asyncio.Task[None] | None = None
        self._waiting_since: float | None = None
        """When something was last heard of the keeper that is being waited for."""

    # --- its beginning and its end

    async def attach(self, timeout_s: float = FIRST_TIMEOUT_S) -> None:
        """Get through to the keeper.

        Raises:
            Exception: one of the line's `cuts`.
        """
        self._channel = await self._line.attach()
        self._partial.clear()
        async with asyncio.timeout(timeout_s):
            await self.tell({"alive": True})
            line = await self._next_line()
            while line is not None and not ({"heard", "gone"} & read(line).keys()):
                line = await self._next_line()
        if line is None or "gone" in read(line):
            self._channel = _Gone()

    def begin(self) -> None:
        """Let the keeper hear from now on that this side lives."""
        self._pulse = asyncio.create_task(self._beat())

    async def stop_beating(self) -> None:
        """The opposite of `begin`."""
        if self._pulse:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)

    async def farewell(self) -> None:
        """Let the keeper end and delete its folder.

        Raises:
            Cut: there is no keeper.
            Exception: one of the line's `cuts`.
        """
        await self.tell({"end": True})
        while "bye" not in (told := await self._told()):
            if "gone" in told:
                raise Cut("there is no keeper")

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
                    await self.tell(asked)
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        told = await self._told(self._number)
                except self._line.cuts as error:
                    if isinstance(error, TimeoutError) and (told := await self._stop()):
                        return told
                    if time.monotonic() > given_up:
                        raise self.lost() from error
                    await self.mend()
                    deadline = max(deadline, time.monotonic() + 10)  # the answer may have been ready for long
                    continue
                if "gone" in told:
                    return {"why": "was ended from outside, maybe for want of memory,"}
                return told if "answer" in told else {"why": f"crashed (exit code {told['ended']})"}

    async def steadily(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what can be done again after a cut.

        Raises:
            DeviceUnreachable: the line was cut, and did not come back.
        """
        async with self._busy:
            for _ in range(ATTEMPTS):
                try:
                    return await work()
                except self._line.cuts:
                    await self.mend()
        raise self.lost()

    async def _stop(self) -> dict[str, Any]:
        """End the guest, which took too long: its answer where that came after all, {} where the line is silent."""
        with suppress(*self._line.cuts):
            await self.tell({"stop": True})
            async with asyncio.timeout(self.patience_s / 2):
                told = await self._told(self._number)
            return told if "answer" in told else {"why": "hung, and was ended,"}
        return {}

    async def tell(self, what: dict[str, Any]) -> None:
        """Say a line to the keeper.

        Raises:
            Exception: one of the line's `cuts`.
        """
        if self._channel is None:
            raise Cut("the line was cut")
        self._channel.write(json.dumps(what).encode() + b"\n")

    async def _told(self, number: int = 0) -> dict[str, Any]:
        """What the keeper says next, of a request where one is numbered.

        Raises:
            Cut: the line ended.
        """
        while True:
            line = await self._next_line()
            if line is None:
                return {"gone": True}
            told = read(line)
            if told and "heard" not in told and (told.get("number", number) == number or not number):
                return told

    async def _next_line(self) -> bytes | None:
        """None where there is a line, and no keeper at its end.

        Raises:
            Cut: the line ended.
        """
        if self._channel is None:
            raise Cut("the line was cut")
        self._waiting_since = time.monotonic()
        try:
            while b"\n" not in self._partial[-READ_BYTES:]:
                chunk = await self._channel.read()
                if not chunk:
                    if await self._channel.failed():
                        return None
                    raise Cut("the line was cut")
                self._waiting_since = time.monotonic()
                self._partial += chunk
                if len(self._partial) > LONGEST_ANSWER_BYTES:
                    raise MeasureError(f"{self._place} answers without end")
        finally:
            self._waiting_since = None
        line, _, rest = bytes(self._partial).partition(b"\n")
        self._partial[:] = rest
        return line

    # --- cuts

    async def mend(self) -> None:
        """Get through to the keeper again.

        Raises:
            DeviceUnreachable: in `patience_s` seconds it did not succeed, or must not be tried.
        """
        since, pause_s = time.monotonic(), 0.1
        self._line.abort()
        while True:
            try:
                await self._line.renew()
                await self.attach(self.patience_s / 2)
            except self._line.cuts as error:
                if time.monotonic() - since + pause_s > self.patience_s:
                    raise self.lost() from error
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 10.0)
            else:
                return

    def lost(self) -> DeviceUnreachable:
        """The error of a line that stays cut."""
        return DeviceUnreachable(
            f"the line to {self._place} was cut, and did not come back in {self.patience_s:g} s",
            hint="the engine there ends by itself; measure again when the line holds",
        )

    async def _beat(self) -> None:
        """Let the keeper hear that this side lives, whatever the caller does between two requests."""
        while True:
            await asyncio.sleep(self.patience_s / 6)
            try:
                await self.tell({"alive": True})
                cut = not self._line.is_up()
            except self._line.cuts:
                cut = True
            if cut and not self._busy.locked():
                async with self._busy:
                    with suppress(EdgekdError):  # the next request says so
                        await self.mend()
            if self._waiting_since and time.monotonic() - self._waiting_since > self.patience_s / 2:
                self._line.abort()  # three times alive, and never heard: what waits notices


def renamed(file: Path, part: Path, there: str) -> bytes:
    """Where a part of a model goes: beside it by its ending, or below it by its name in the folder."""
    if part == file:
        return os.fsencode(there)
    if file.is_dir():
        return os.fsencode(there) + b"/" + os.fsencode(part.relative_to(file))
    return os.fsencode(posixpath.splitext(there)[0] + part.suffix)


def read(line: str | bytes) -> dict[str, Any]:
    """What a line of the keeper says; {} where it is not of the keeper, for login scripts may print."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
