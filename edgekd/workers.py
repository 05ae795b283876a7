"""Runs a function in a process of its own: heavy libraries load there, leak there, and crash there alone.

A worker reads one JSON line on standard input and answers in JSON lines on what was its standard output; whatever a
library prints goes to the log. It leaves when its parent does, however the parent ends.
"""

import inspect
import json
import os
import select
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from edgekd import errors, progress
from edgekd.errors import EdgekdError, WorkerDied
from edgekd.files import decode
from edgekd.plugins import find_object, reference

P = ParamSpec("P")
R = TypeVar("R")

_running: set[subprocess.Popen[bytes]] = set()


def call(function: Callable[P, R], *arguments: P.args, threads: int, log: Path, timeout_s: float = 3600) -> R:  # type: ignore[valid-type]  # a ParamSpec's args may not be followed by keywords, and a worker needs these
    """`function(*arguments)`, executed in a process of its own.

    Arguments and result must be nouns or plain data. `threads` caps the math libraries; a single one makes
    floating-point sums repeatable to the bit. What libraries print is appended to `log`.

    Raises:
        EdgekdError: whatever of these the function raised, as it was raised.
        WorkerDied: it crashed, hung for longer than `timeout_s` seconds, or raised anything else.
    """
    request = {"function": reference(function), "arguments": msgspec.to_builtins(arguments)}
    with log.open("ab") as stderr, _start(threads, stderr) as process:
        _running.add(process)
        try:
            answer = _converse(process, json.dumps(request).encode() + b"\n", time.monotonic() + timeout_s)
        finally:
            process.kill()
            _running.discard(process)
    if "error" in answer:
        raise getattr(errors, answer["error"], EdgekdError)(answer["message"], hint=answer["hint"])
    if "result" not in answer:
        raise WorkerDied(answer.get("died") or _how_it_ended(process), hint=f"what it printed is in {log}")
    return cast(R, decode(get_type_hints(function)["return"], answer["result"], reference(function)))


def together(calls: Sequence[Callable[[], R]], at_once: int) -> list[R]:
    """The results of all calls, `at_once` of them at a time; the first error is raised when all have ended.

    An interrupt ends the workers of all calls at once.
    """
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        futures = [pool.submit(one) for one in calls]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            for future in futures:
                future.cancel()
            for process in list(_running):
                process.kill()
            raise


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(threads: int, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other on busy cores took seven times as long
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # a user's module is found there as it is here
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from edgekd.workers import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
    )


def _converse(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> dict[str, Any]:
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    try:
        stdin.write(request)
        stdin.flush()
    except BrokenPipeError:
        return {}
    pending = b""
    while True:
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return {"died": "it hung, and was ended"}
        chunk = os.read(stdout.fileno(), 65536)
        if not chunk:
            process.wait()
            return {}
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "progress" not in message:
                return message
            progress.tell(*message["progress"])


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


# --- the worker's side


def serve() -> None:
    """Execute the request on standard input and answer; the process ends at once when standard input does."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    with progress.listening(lambda *parts: reply({"progress": parts})):
        reply(_execute(request))
    os._exit(0)  # libraries' exit handlers can hang; nothing of theirs is wanted any more


def _leave_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _execute(request: dict[str, Any]) -> dict[str, Any]:
    try:
        function = inspect.unwrap(find_object(request["function"]))
        hints = get_type_hints(function)
        kinds = [hints[name] for name in inspect.signature(function).parameters]
        arguments = [
            decode(kind, value, request["function"]) for kind, value in zip(kinds, request["arguments"], strict=True)
        ]
        return {"result": msgspec.to_builtins(function(*arguments))}
    except EdgekdError as error:
        return {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, the parent must hear of it
        traceback.print_exc()
        first_line = next(iter(str(error).strip().splitlines()), "")
        return {"died": f"{type(error).__name__}: {first_line}"}
