"""A guest that this machine started itself, and that is spoken to through its standard input and output."""

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from edgekd.devices import Connection
from edgekd.errors import MeasureError


@contextmanager
def started(
    command: Sequence[str], scratch: Path, environment: Mapping[str, str] | None = None, open_files: Sequence[int] = ()
) -> Iterator[Connection]:
    """Start a guest that sees this machine's files by their own names; it is ended with the block.

    What it prints is appended to engine.log in `scratch`. `open_files` are the descriptors that it inherits.
    """
    with (
        (scratch / "engine.log").open("ab") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            pass_fds=open_files,
        ) as process,
    ):
        try:
            yield _Pipe(process, scratch)
        finally:
            process.kill()


class _Pipe:
    def __init__(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        self._process = process
        self._log = scratch / "engine.log"

    def put(self, file: Path) -> str:
        return str(file)

    def get(self, name: str, file: Path) -> None:
        if Path(name) != file:
            Path(name).replace(file)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        try:
            stdin = cast(IO[bytes], self._process.stdin)
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = self._line(time.monotonic() + timeout_s)
        except BrokenPipeError:
            line = b""
        if not line:
            raise MeasureError(f"the engine crashed on `{request['do']}`", hint=f"what it printed is in {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise MeasureError(f"the engine failed on `{request['do']}`: {answer['error'].splitlines()[0]}")
        return answer

    def _line(self, deadline: float) -> bytes:
        stdout = cast(IO[bytes], self._process.stdout)
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise MeasureError("the engine hung, and was ended", hint=f"what it printed is in {self._log}")
            chunk = os.read(stdout.fileno(), 1 << 20)
            if not chunk:
                return b""
            line += chunk
        return line
