"""Runs a function in a process of its own: heavy libraries load there, leak there, and crash there alone.

A worker reads JSON lines on standard input and answers in JSON lines on what was its standard output; whatever a
library prints goes to the log. It leaves when its parent does, however the parent ends.
"""

import contextlib
import inspect
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from edgekd import errors, progress
from edgekd.errors import EdgekdError, PluginUnavailable, WorkerDied
from edgekd.files import decode
from edgekd.plugins import find_object, reference

P = ParamSpec("P")
R = TypeVar("R")

SERVE = "from edgekd.workers import serve; serve()"
_Process = subprocess.Popen[bytes]
_running: set[_Process] = set()
_KEEPING = {
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Of glibc: what is freed stays with the process, up to half a GB. By default it goes back to the system in each step
of a training, and comes again page by page, which takes up to half of the time. Huge pages, where the kernel has some,
take another tenth off a step. Memory is measured in guests that no worker starts: they allocate by default."""
_crews: list[int] = [0]
"""Processes that a training has, the last one counts; 0 for one of its own, on the processor."""
_shared: ContextVar[dict[int, _Process] | None] = ContextVar("shared", default=None)
"""By their number of threads the processes that wait for the next call of this thread."""


def call(  # type: ignore[valid-type]  # a ParamSpec's args may not be followed by keywords, and a worker needs these
    function: Callable[P, R],
    *arguments: P.args,
    threads: int,
    log: Path,
    timeout_s: float = 3600,
    trains: bool = False,
) -> R:
    """`function(*arguments)`, executed in a process of its own.

    Arguments and result must be nouns or plain data. `threads` caps the math libraries; a single one makes
    floating-point sums repeatable to the bit. What libraries print is appended to `log`. A
    function that `trains` is executed by a crew, where there is one; its first argument is its Work.

    Raises:
        EdgekdError: whatever of these the function raised, as it was raised.
        WorkerDied: it crashed, hung for longer than `timeout_s` seconds, or raised anything else.
    """
    request = {
        "function": reference(function),
        "arguments": msgspec.to_builtins(arguments),
        "log": str(log.resolve()),
    }
    shared = _shared.get()
    with log.open("ab") as stderr:
        crew = _crews[-1] if trains else 0
        process = (None if crew else (shared or {}).pop(threads, None)) or _start(threads, stderr, crew)
    answer: dict[str, Any] = {}
    try:
        answer = _converse(process, json.dumps(request).encode() + b"\n", time.monotonic() + timeout_s)
    finally:
        if shared is not None and not crew and ("error" in answer or "result" in answer):
            shared[threads] = process
        else:
            _end(process)
    if "error" in answer:
        raise getattr(errors, answer["error"], EdgekdError)(answer["message"], hint=answer["hint"])
    if "result" not in answer:
        raise WorkerDied(answer.get("died") or _how_it_ended(process), hint=f"what it printed is in {log}")
    return cast(R, decode(get_type_hints(function)["return"], answer["result"], reference(function)))


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Calls of this thread go to one process, so that libraries load once; one that died is replaced."""
    processes: dict[int, _Process] = {}
    token = _shared.set(processes)
    try:
        yield
    finally:
        _shared.reset(token)
        for process in processes.values():
            _end(process)


@contextlib.contextmanager
def crew(processes: int) -> Iterator[None]:
    """Trainings have so many processes each, on GPUs where there are some: see edgekd/crew.py. 0 changes nothing.

    Raises:
        PluginUnavailable: Accelerate is not installed.
    """
    if processes and not find_spec("accelerate"):
        raise PluginUnavailable("several processes need accelerate", hint="pip install 'edgekd[cluster]'")
    _crews.append(processes)
    try:
        yield
    finally:
        _crews.pop()


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


def _start(threads: int, stderr: IO[bytes], crew: int) -> _Process:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {
        **_KEEPING,
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other on busy cores took seven times as long
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # a user's module is found there as it is here
    }
    process = subprocess.Popen(
        [sys.executable, "-c", f"from edgekd.crew import lead; lead({crew})" if crew else SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
    )
    _running.add(process)
    return process


def _end(process: _Process) -> None:
    with contextlib.suppress(BrokenPipeError), process:
        process.kill()
    _running.discard(process)


def _converse(process: _Process, request: bytes, deadline: float) -> dict[str, Any]:
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


def _how_it_ended(process: _Process) -> str:
    code = process.returncode
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


# --- the worker's side


def serve() -> None:
    """Execute the requests on standard input and answer each; the process ends at once when standard input does."""
    replies = os.fdopen(os.dup(1), "w")

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    with progress.listening(lambda *parts: reply({"progress": parts})):
        while True:
            request = requests.get()
            print_into(request["log"])
            answer = execute(request)
            sys.stdout.flush()
            reply(answer)


def _listen(requests: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)  # with the parent; libraries' exit handlers can hang, and nothing of theirs is wanted any more


def print_into(log: str) -> None:
    """Send what this process prints into a file: what a library prints must not look like an answer."""
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(opened, stream)
    os.close(opened)


def execute(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: its result, an error of ours, or how it died."""
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
