"""Runs on the device: loads an engine file and a model, executes and times it, and answers in JSON lines.

usage: python _guest.py ENGINE.py

Needs Python 3.8, numpy and the engine's runtime. A request is {"do": VERB, ...}; the answer is {"ok": true, ...} or
{"ok": false, "error": TEXT}. It ends with its standard input.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
from typing import Any, Callable, Iterable

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # onnxruntime.py lies there

import numpy as np  # noqa: E402 - after the path is mended

WARMUPS = 24
"""Before counting, for Python adapts what it calls often to how it is called; two where one takes `LONG_S` or more."""
LONG_S = 0.2


class Guest:
    """Answers requests about one model."""

    def __init__(self, engine_file: str) -> None:
        spec = importlib.util.spec_from_file_location("edgekd_engine", engine_file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.engine: Any = module.PLUGIN
        getattr(self.engine, "prepare", bool)()
        importlib.import_module(self.engine.runtime)  # here, so that no load time and no memory counts it
        self.session: Any = None

    def facts(self, request: dict[str, Any]) -> dict[str, Any]:
        """The machine and the runtime."""
        return {"engine_version": self.engine.version(), "machine": machine(), "emulated": emulated()}

    def rehearse(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import what other requests import late, given any .npz as `inputs`: a module that Python has yet to compile
        leaves the memory behind it in another order, and that changes what is counted."""
        return {"outputs_sha256": digest(arrays(request["inputs"]))}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a model; pins the process to as many cores as it has threads."""
        cores = pin(request["threads"])
        start = time.perf_counter_ns()
        self.session = self.engine.load(request["model"], request["threads"])
        return {
            "load_ms": since_ms(start),
            "inputs": list(self.session.inputs),
            "outputs": list(self.session.outputs),
            "cores": cores,
            "emulated": emulated(),
        }

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute every example of a .npz of inputs, write a .npz of outputs, both in the model's order."""
        inputs = arrays(request["inputs"])
        collected: list[Any] = []
        for index in range(len(inputs[0])):
            self.session.feed([array[index] for array in inputs])
            self.session.invoke()
            collected.append(self.session.fetch())
        outputs: dict[str, Any] = {str(i): np.stack(parts) for i, parts in enumerate(zip(*collected))}
        np.savez(request["outputs"], **outputs)
        return {"outputs_sha256": digest(outputs.values())}

    def unroll(self, request: dict[str, Any]) -> dict[str, Any]:
        """Lead a model that is one step of a net that writes through every text of a .npz, and write what it answers.

        Its inputs are a token, its position, what stays the same in a text and the state; its outputs the answer and
        the state of the next step. The .npz has tokens (texts, length), then of each text what stays the same; what is
        written is (texts, 1, classes, length).
        """
        tokens, *context = arrays(request["inputs"])
        texts = []
        for index, text in enumerate(tokens):
            step = Steps(self.session, [one[index] for one in context])
            texts.append(np.stack([step(token) for token in text], axis=2))
        outputs = np.stack(texts)
        named: dict[str, Any] = {"0": outputs}
        np.savez(request["outputs"], **named)
        return {"outputs_sha256": digest([outputs])}

    def write(self, request: dict[str, Any]) -> dict[str, Any]:
        """Go on with every text of a .npz by the most likely token, after one text as a warm-up, and time that.

        The .npz has tokens (texts, length), how many of them are given (texts,), then as for `unroll`. A text ends with
        the token `end`, or when it is full. Of each text: `tokens` that were written, `first_ms` until the first of
        them and `text_ms` until the last, what was `given`, and the `text` behind it.
        """
        tokens, given, *context = arrays(request["inputs"])
        before = conditions()
        written = [
            self._written(tokens[index].copy(), int(given[index]), request["end"], [one[index] for one in context])
            for index in [0] + list(range(len(tokens)))
        ][1:]
        return {"written": written, "before": before, "after": conditions()}

    def _written(self, text: np.ndarray, given: int, end: int, context: list[np.ndarray]) -> dict[str, Any]:
        step, count, first_ms = Steps(self.session, context), 0, 0.0
        start = time.perf_counter_ns()
        for place in range(len(text) - 1):
            answer = step(text[place])
            if place + 1 < given:
                continue
            text[place + 1] = int(answer[0].argmax())
            count += 1
            first_ms = first_ms or since_ms(start)
            if text[place + 1] == end:
                break
        text_ms, written = since_ms(start), text[given : given + count].tolist()
        return {
            "tokens": count,
            "first_ms": first_ms,
            "text_ms": text_ms,
            "given": text[:given].tolist(),
            "text": written,
        }

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time single inferences, a fresh input each, after a warm-up by count and by time.

        A session with a clock of its own (`time`) is asked instead, also for what the first inference takes; and an
        engine (`time`) in front of a program that loads and times by itself, and keeps its samples to itself.
        """
        if hasattr(self.engine, "time"):
            pin(request["threads"])
            before = conditions()
            return dict(self.engine.time(request), before=before, after=conditions())
        inputs = arrays(request["inputs"])
        feeds = [[array[index] for array in inputs] for index in range(len(inputs[0]))]
        warmup = request["warmup_count"], request["warmup_s"]
        asked = request["min_count"], request["min_s"], request["max_s"]
        if hasattr(self.session, "time"):
            first = self.session.time(feeds, 0, 0.0, 1, 0.0, request["max_s"])[0]
            before = conditions()
            samples = self.session.time(feeds, *warmup, *asked)
        else:
            first = self._one(feeds[0])
            self._many(feeds, *warmup, request["warmup_s"] + 60)
            before = conditions()
            samples = self._many(feeds, *asked)
        self.session.feed(feeds[0])
        self.session.invoke()
        return {
            "first_ms": first,
            "samples_ms": samples,
            "before": before,
            "after": conditions(),
            "outputs_sha256": digest(self.session.fetch()),
        }

    def profile(self, request: dict[str, Any]) -> dict[str, Any]:
        """How long each of the runtime's own operators took, the mean of the middle half of `count` inferences.

        `nodes` are in the order of execution, null where the runtime has no profiler. Of a node: `name` and `kind` as
        the runtime calls them, `ms`, and `index` of the model's operator that it is, -1 where the runtime does not say.
        """
        if not hasattr(self.session, "profile"):
            return {"nodes": None}
        inputs = arrays(request["inputs"])
        feeds = [[array[index] for array in inputs] for index in range(len(inputs[0]))]
        runs = self.session.profile(feeds, request["count"])
        if not runs:
            return {"nodes": None}
        usual = max(len(run) for run in runs)
        runs = [run for run in runs if len(run) == usual]
        times = np.sort([[node["ms"] for node in run] for run in runs], axis=0)  # some count whole microseconds
        middle = times[len(times) // 4 : len(times) - len(times) // 4].mean(axis=0)
        return {"nodes": [dict(node, ms=float(ms)) for node, ms in zip(runs[0], middle)]}

    def count(self, request: dict[str, Any]) -> dict[str, Any]:
        """What each of `count` inferences executed, one counted apart from the other, after some that are not.

        `inferences` is null where nothing counts, as on real hardware. Of an inference: `instructions` by class and in
        `total`, `memory` with accesses, load_bytes, store_bytes and touched_bytes, and of each of `caches` its level,
        accesses and misses. `empty` is what counting itself adds to each.
        """
        output = os.environ.get("EDGEKD_COUNTER")
        if output is None:
            return {"inferences": None, "empty": None}
        inputs = arrays(request["inputs"])
        feeds = [[array[index] for array in inputs] for index in range(len(inputs[0]))]
        gc.collect()
        gc.disable()  # it would come at another place in every process
        try:
            counted(nothing)  # the first mark only awakes what counts
            start = time.monotonic()
            for turn in range(WARMUPS):
                self.session.feed(feeds[turn % len(feeds)])
                counted(self.session.invoke)
                if turn and time.monotonic() - start > LONG_S * turn:
                    break  # what Python still changes of itself is nothing beside such a model
            begin = os.fstat(int(output)).st_size
            for turn in range(request["count"]):
                self.session.feed(feeds[turn % len(feeds)])
                counted(self.session.invoke)
            for _ in range(2):
                counted(nothing)
        finally:
            gc.enable()
        size = os.fstat(int(output)).st_size - begin
        found = [json.loads(line) for line in os.pread(int(output), size, begin).splitlines()]
        return {"inferences": found[:-2], "empty": found[-1], "outputs_sha256": digest(self.session.fetch())}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Peak resident memory of loading and executing, above what the runtime took to import, and what the machine
        has left then; 0 where it does not say.

        Of each input `inputs` has a `file` with one example, its dtype and its shape: a .npz would need modules of
        Python's that take two megabytes of what is weighed. Where another process executes, the peak is what the
        session says of that one (`process_bytes`), all of it.
        """
        given = request["inputs"]
        reset_peak()
        baseline = resident_bytes()
        self.load(request)
        for _ in range(5):  # read anew, so that a runtime that keeps no inputs has them alone when it executes
            self.session.feed([np.fromfile(one["file"], one["dtype"]).reshape(one["shape"]) for one in given])
            self.session.invoke()
        peak = peak_resident_bytes()
        elsewhere = getattr(self.session, "process_bytes", None)
        return {
            "peak_rss_bytes": max(0, peak - baseline) if elsewhere is None else elsewhere,
            "runtime_rss_bytes": baseline,
            "available_bytes": meminfo_bytes("MemAvailable"),
            "arena_bytes": getattr(self.session, "arena_bytes", None),
            "persistent_bytes": getattr(self.session, "persistent_bytes", None),
        }

    def plan(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the runtime says of how it would execute a model, operation by operation; nothing where it does not."""
        return {"plan": self.engine.plan(request["model"]) if hasattr(self.engine, "plan") else []}

    def _one(self, feed: list[np.ndarray]) -> float:
        self.session.feed(feed)
        start = time.perf_counter_ns()
        self.session.invoke()
        return since_ms(start)

    def _many(self, feeds: list[list[np.ndarray]], count: int, seconds: float, limit_s: float) -> list[float]:
        samples: list[float] = []
        start = time.monotonic()
        while True:
            passed = time.monotonic() - start
            if (len(samples) >= count and passed >= seconds) or passed >= limit_s:
                return samples
            samples.append(self._one(feeds[len(samples) % len(feeds)]))


class Steps:
    """A text being read or written by a model that is one step of a net: what it answers, token after token."""

    def __init__(self, session: Any, context: list[np.ndarray]) -> None:
        inputs = list(session.inputs)
        self.session, self.context, self.place = session, context, 0
        self.types = [one["dtype"] for one in inputs[:2]]
        self.state = [np.zeros(one["shape"], np.float32) for one in inputs[2 + len(context) :]]

    def __call__(self, token: int) -> np.ndarray:
        """Logits (1, classes) after a token."""
        given = [np.array([[token]], self.types[0]), np.array([self.place], self.types[1])]
        self.session.feed(given + self.context + self.state)
        self.session.invoke()
        answers: list[np.ndarray] = self.session.fetch()
        self.state = answers[1:]
        self.place += 1
        return answers[0]


def counted(function: Callable[[], None]) -> None:
    """Call a function between the marks that edgekd/emulation/counter.c waits for."""
    getpriority = os.getpriority
    try:
        getpriority(os.PRIO_PROCESS, 0x45440001)
    except OSError:  # no process has such a number
        pass
    function()
    try:
        getpriority(os.PRIO_PROCESS, 0x45440002)
    except OSError:
        pass


def nothing() -> None:
    """What counting alone costs."""


def since_ms(start_ns: int) -> float:
    """Milliseconds since a perf_counter_ns."""
    return (time.perf_counter_ns() - start_ns) / 1e6


def arrays(path: str) -> list[np.ndarray]:
    """Arrays of shape (examples, *shape) of a .npz, named "0", "1", ... in the model's order."""
    with np.load(path, allow_pickle=False) as opened:
        return [opened[str(index)] for index in range(len(opened.files))]


def digest(outputs: Iterable[np.ndarray]) -> str:
    """SHA-256 of arrays' bytes."""
    import hashlib  # here, for it takes four megabytes that no model needs

    sha = hashlib.sha256()
    for array in outputs:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def pin(threads: int) -> list[int]:
    """Keep this process on its last `threads` cores, where the system can; the cores it is on."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


def read(path: str) -> str:
    """First line of a system file, or ""."""
    try:
        with open(path) as opened:
            return opened.readline().strip()
    except OSError:
        return ""


def field(path: str, name: str) -> str:
    """What stands after `name:` in a system file, or ""."""
    try:
        with open(path) as opened:
            lines = [line.partition(":") for line in opened]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def meminfo_bytes(name: str) -> int:
    """What Linux says of the machine's memory; 0 where it says nothing."""
    return int((field("/proc/meminfo", name) or "0 kB").split()[0]) * 1024


def machine() -> dict[str, Any]:
    """What identifies this machine."""
    return {
        "system": "%s %s" % (platform.system(), platform.release()),
        "cpu": field("/proc/cpuinfo", "model name")
        or field("/proc/cpuinfo", "Model")
        or platform.processor()
        or "unknown",
        "cores": os.cpu_count() or 1,
        "memory_bytes": meminfo_bytes("MemTotal"),
        "python": platform.python_version(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": float(field("/proc/cpuinfo", "cpu MHz") or 0),
    }


def emulated() -> bool:
    """True where a program imitates this processor, as in an Arm container on a PC: the kernel below is for another."""
    own = family(platform.machine())
    kernel = read("/proc/sys/kernel/arch")  # since Linux 6.1; older QEMUs show the PC's processor as it is
    return family(kernel) != own if kernel else own == "arm" and bool(field("/proc/cpuinfo", "vendor_id"))


def family(name: str) -> str:
    """What executes each other's programs has one name."""
    if name.startswith(("arm", "aarch64")):
        return "arm"
    return "x86" if name in ("x86_64", "i386", "i486", "i586", "i686") else name


def conditions() -> dict[str, Any]:
    """What can disturb a timing: temperatures in degrees, clocks in MHz, and time stolen by a hypervisor in ticks."""
    zones = "/sys/class/thermal"
    names = sorted(os.listdir(zones)) if os.path.isdir(zones) else []
    readings = [read("%s/%s/temp" % (zones, name)) for name in names]
    ticks = read("/proc/stat").split()
    return {
        "temperatures_c": [int(reading) / 1000 for reading in readings if reading.lstrip("-").isdigit()],
        "clock_mhz": float(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq") or 0) / 1000,
        "throttled": int(read("/sys/devices/platform/soc/soc:firmware/get_throttled") or "0", 16),
        "stolen_ticks": int(ticks[8]) if len(ticks) > 8 else 0,
        "at_s": time.monotonic(),
    }


EMULATED = "EDGEKD_EMULATED" in os.environ
"""The kernel below counts the emulator's memory to this process, so it is not asked for totals."""


def reset_peak() -> None:
    """Let the kernel count the peak anew, where it can."""
    try:
        with open("/proc/self/clear_refs", "w") as opened:
            opened.write("5")
    except OSError:
        pass


def resident_bytes() -> int:
    """Resident memory now."""
    if EMULATED:
        return guest_resident_bytes()
    value = field("/proc/self/status", "VmRSS")
    return int(value.split()[0]) * 1024 if value else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Most resident memory since the start, or since `reset_peak`; under emulation what is resident now."""
    if EMULATED:
        return guest_resident_bytes()
    value = field("/proc/self/status", "VmHWM")
    if value:
        return int(value.split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def guest_resident_bytes() -> int:
    """Resident memory without the emulator's own: that of areas which the emulator shows to its guest."""
    base = int(os.environ["EDGEKD_EMULATED"], 16)
    guest = [area for area, _ in areas("/proc/self/maps")]  # answered by the emulator; the other by the kernel
    shown = [(start + base, end + base) for start, end in guest]
    return sum(
        kilobytes * 1024
        for (start, end), kilobytes in areas("/proc/thread-self/smaps")
        if any(start < other_end and other_start < end for other_start, other_end in shown)
    )


def areas(path: str) -> Iterable[tuple[tuple[int, int], int]]:
    """Of each area of memory in maps or smaps its first and last address, and the kilobytes resident, where told."""
    found: list[tuple[tuple[int, int], int]] = []
    with open(path) as opened:
        for line in opened:
            words = line.split()
            if words[0] == "Rss:":
                found[-1] = (found[-1][0], int(words[1]))
            elif not words[0].endswith(":"):
                start, end = words[0].split("-")
                found.append(((int(start, 16), int(end, 16)), 0))
    return found


def end_with_parent() -> None:
    """Let Linux end this process when the one that started it is killed, for a request can take minutes."""
    parent = os.getppid()
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    except (ImportError, OSError, AttributeError):  # another system: it ends after the request
        return
    if os.getppid() != parent:  # it was killed meanwhile
        sys.exit(1)


def serve(engine_file: str) -> None:
    """Answer requests until standard input ends."""
    end_with_parent()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not look like an answer
    guest: Guest | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            guest = guest or Guest(engine_file)
            answer = dict(getattr(guest, request["do"])(request), ok=True)
        except Exception as error:  # noqa: BLE001 - the edge of the process: the asking side must hear of it
            answer = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
