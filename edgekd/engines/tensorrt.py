"""TensorRT on an NVIDIA GPU, through `trtexec`, the program that JetPack brings to a Jetson. Not tried on one yet.

`load` builds a plan of the file once, for this GPU, in a folder of its own; whatever is asked then is a process that
loads this plan. Precision is what the file says: --int8 where it quantizes, --fp16 where it holds halves, and no TF32.
Dimensions that the file leaves open are 1.

Samples are not taken around a process, but by trtexec's own loop with --exposeDMA, one inference after the other: each
is its `latencyMs`, "the summation of H2D Latency, GPU Compute Time, and D2H Latency", by CUDA's events. Gaps between
the three are not in it. The first example is the input of all; a warm-up that is asked for by count is turned into
milliseconds by what eight inferences take.

Memory is that of the last process that executed: its peak resident set, CUDA's and TensorRT's libraries included, and
what TensorRT says that it allocated on the GPU, which on a Jetson is the same memory. The former is what the kernel
says; the latter (`arena_bytes`) is printed in whole MiB, and CUDA's own memory on the GPU is in neither. Building a
plan takes more, and is not counted.

Options and formats are those of https://github.com/NVIDIA/TensorRT: samples/trtexec/README.md and trtexec.cpp (commit
147005f), samples/common/sampleReporting.cpp (commit 768d994: exportJSONTrace, exportJSONOutput, exportJSONProfile) and
older copies of it; sampleOptions.cpp (NAME:FILE), sampleInference.cpp (inferenceLoop, dumpRawBindingToFiles) and
sampleEngines.cpp (halves, int32 and bool are taken as they are) in copies of releases 8 and 10, and the help of 10.5.
What came late or went away is looked for in `trtexec --help`. From memory, and not looked up: that TensorRT before 10
takes int64 as int32, and how a version is made into one number.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np

PROGRAM = "trtexec"
PLACES = ("/usr/src/tensorrt/bin",)
"""Where NVIDIA's packages put it, which is not in PATH."""

HELP_LIMIT_S, BUILD_LIMIT_S, EXECUTE_LIMIT_S = 50.0, 580.0, 110.0
"""Below what edgekd waits for an answer, so that it hears why."""
PROBED = 8
"""Inferences that tell how long one takes."""
PROFILE_WARMUP_MS = 200
MOST_LOG_BYTES = 16 << 20
MIB = 1 << 20


class TensorRT:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".onnx",)
    runtime = "subprocess"  # it is a program and no module
    needs = "a Jetson with JetPack (trtexec)"

    def installed(self) -> bool:
        """True where trtexec is on this machine."""
        return bool(_program())

    def version(self) -> str:
        """Version of TensorRT."""
        return ".".join(map(str, _Trtexec().version))

    def load(self, model: str, threads: int) -> TensorRTSession:
        """Build the plan of a model file, which can take minutes."""
        return TensorRTSession(model)


class TensorRTSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str) -> None:
        self._model = _read_model(model)
        self._trtexec = _Trtexec()
        inputs = [dict(one, shape=[abs(size) for size in one["shape"]]) for one in self._model.inputs]
        self._shapes = _shapes([one for one, other in zip(inputs, self._model.inputs) if one != other])
        self._bound = [_bound(one["dtype"], self._trtexec.version) for one in inputs]
        self.inputs, self.outputs = inputs, self._model.outputs
        self.arena_bytes: int | None = None
        self.process_bytes: int | None = None
        self._feeds: list[np.ndarray] = []
        self._results: list[np.ndarray] = []
        self._build(os.path.abspath(model))

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        self._feeds = list(arrays)

    def invoke(self) -> None:
        """Execute once, in a process of its own."""
        for name in os.listdir(self._trtexec.folder):
            if name.endswith(".raw") or name == "output.json":
                os.unlink(self._file(name))
        raw = self._trtexec.offers("--dumpRawBindingsToFile")  # the other has but six digits
        how = "--dumpRawBindingsToFile" if raw else "--exportOutput=output.json"
        log = self._execute(self._feeds, ["--iterations=1", "--warmUp=0", "--duration=0", how], EXECUTE_LIMIT_S)
        found = _dumped(log, self._trtexec.folder, self.outputs) if raw else _exported(self._text("output.json"))
        lacking = [one["name"] for one in self.outputs if one["name"] not in found]
        if lacking:
            raise RuntimeError("trtexec wrote no output %s" % ", ".join(lacking))
        self._results = [found[one["name"]] for one in self.outputs]

    def fetch(self) -> list[np.ndarray]:
        """The outputs: floats as float32, integers as the file has them."""
        return [
            array.astype("float32" if one["dtype"] == "float16" else one["dtype"])
            for array, one in zip(self._results, self.outputs)
        ]

    def time(
        self,
        feeds: Sequence[Sequence[np.ndarray]],
        warmup_count: int,
        warmup_s: float,
        min_count: int,
        min_s: float,
        max_s: float,
    ) -> list[float]:
        """Milliseconds of each inference on the first example: transfer in, compute and transfer out."""
        warmup_ms, count = 1000 * warmup_s, min_count
        if min_count > 1:
            usual_ms = max(1e-3, float(np.median(self._sampled(feeds[0], 0, PROBED, 0, max_s))))
            warmup_ms = max(warmup_ms, warmup_count * usual_ms)
            count = max(1, min(min_count, int(1000 * max_s / usual_ms)))
        return self._sampled(feeds[0], math.ceil(warmup_ms), count, math.ceil(min(min_s, max_s)), max_s)

    def profile(self, feeds: Sequence[Sequence[np.ndarray]], count: int) -> list[list[dict[str, Any]]]:
        """Of each layer the median of `count` inferences; the mean where TensorRT exports no median."""
        loop = ["--iterations=%d" % count, "--warmUp=%d" % PROFILE_WARMUP_MS, "--duration=0"]
        self._execute(feeds[0], [*loop, "--dumpProfile", "--exportProfile=profile.json"], EXECUTE_LIMIT_S)
        return [_layers(self._text("profile.json"), self._model.kinds)]

    def _build(self, model: str) -> None:
        options = ["--onnx=" + model, "--saveEngine=model.plan", "--noTF32", *self._shapes]
        options += [flag for flag in self._model.precisions if self._trtexec.offers(flag)]
        alone = [flag for flag in ("--skipInference", "--buildOnly") if self._trtexec.offers(flag)]
        options += alone[:1] or ["--iterations=1", "--warmUp=0", "--duration=0"]
        self._trtexec.run(options, BUILD_LIMIT_S)
        if not os.path.isfile(self._file("model.plan")):
            raise RuntimeError("trtexec wrote no plan")

    def _execute(self, feed: Sequence[np.ndarray], options: list[str], limit_s: float) -> str:
        named = []
        for turn, (one, dtype, array) in enumerate(zip(self.inputs, self._bound, feed)):
            if list(array.shape) != one["shape"]:
                raise ValueError("%s is %s and was given %s" % (one["name"], one["shape"], list(array.shape)))
            np.ascontiguousarray(array, dtype).tofile(self._file("input%d.bin" % turn))
            named.append("%s:input%d.bin" % (one["name"], turn))
        given = ["--loadEngine=model.plan", *self._shapes, "--exposeDMA"]
        given += ["--loadInputs=" + ",".join(named)] if named else []
        ended = self._trtexec.run(given + options, limit_s)
        self.arena_bytes = _gpu_bytes(ended.log)
        self.process_bytes = ended.peak_rss_bytes + (self.arena_bytes or 0)
        return ended.log

    def _sampled(
        self, feed: Sequence[np.ndarray], warmup_ms: int, count: int, seconds: int, max_s: float
    ) -> list[float]:
        loop = ["--iterations=%d" % count, "--warmUp=%d" % warmup_ms, "--duration=%d" % seconds]
        limit_s = EXECUTE_LIMIT_S / 2 + warmup_ms / 1000 + 1.5 * max_s
        self._execute(feed, [*loop, "--exportTimes=times.json"], limit_s)
        return _latencies(self._text("times.json"), warmup_ms)

    def _file(self, name: str) -> str:
        return os.path.join(self._trtexec.folder, name)

    def _text(self, name: str) -> str:
        try:
            with open(self._file(name), encoding="utf-8", errors="replace") as opened:
                text = opened.read()
            os.unlink(self._file(name))  # the next process must not pass off this one's as its own
        except OSError as error:
            raise RuntimeError("trtexec wrote no %s" % name) from error
        return text


# --- the program


class _Ended(NamedTuple):
    log: str
    peak_rss_bytes: int


class _Trtexec:
    """The program, of which `--help` says what it has, and its folder."""

    def __init__(self) -> None:
        self._path = _program()
        if not self._path:
            raise RuntimeError("no trtexec in PATH or %s" % ", ".join(PLACES))
        self._folder = _Folder()
        self._help = self.run(["--help"], HELP_LIMIT_S).log

    @property
    def folder(self) -> str:
        """The folder that it runs in, where its files are."""
        return self._folder.name

    @property
    def version(self) -> tuple[int, int, int]:
        """8.2.1 of `[TensorRT v8201]`, 10.3.0 of `[TensorRT v100300]`."""
        named = re.search(r"\[TensorRT v(\d{4,7})\]", self._help)
        if not named:
            raise RuntimeError("%s does not say which TensorRT it is of" % self._path)
        number = int(named.group(1))
        major, rest = divmod(number, 10_000 if number >= 100_000 else 1000)
        return (major, *divmod(rest, 100))

    def offers(self, option: str) -> bool:
        """True where the help lists an option."""
        return re.search(re.escape(option) + r"(?![\w-])", self._help) is not None

    def run(self, options: list[str], limit_s: float) -> _Ended:
        """What it printed, and its peak resident memory."""
        with open(os.path.join(self.folder, "log.txt"), "w+b") as log:
            process = subprocess.Popen(
                [self._path, *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_ending_with_parent(),  # noqa: PLW1509 - a guest has one thread
            )
            try:
                status, peak_rss_bytes = _wait(process, limit_s)
            finally:
                _end(process)
            log.seek(0)
            text = log.read(MOST_LOG_BYTES).decode(errors="replace")
        if status != 0:
            raise RuntimeError(_why(text, options, status))
        return _Ended(text, peak_rss_bytes)


def _program() -> str:
    """Path of trtexec, or ""."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=os.pathsep.join(PLACES)) or ""


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> tuple[int, int]:
    """Exit status and peak resident bytes, read while it lives: what wait4 tells later is at least what this process
    had when it started it."""
    end, peak = time.monotonic() + limit_s, 0
    while process.poll() is None:
        peak = max(peak, _peak_bytes(process.pid))
        if time.monotonic() > end:
            raise RuntimeError("trtexec took more than %g s" % limit_s)
        time.sleep(0.01)
    return process.returncode, peak


def _peak_bytes(pid: int) -> int:
    try:
        with open("/proc/%d/status" % pid) as opened:
            return next((int(line.split()[1]) * 1024 for line in opened if line.startswith("VmHWM:")), 0)
    except OSError:  # it ended just now
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        process.wait()


def _ending_with_parent() -> Any:
    """For between fork and exec: Linux ends it with this process, which may be killed while it builds."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return (lambda: prctl(1, 9)) if prctl else None  # PR_SET_PDEATHSIG, SIGKILL


def _why(log: str, options: list[str], status: int) -> str:
    """The first errors that it printed: lines of `[11/24/2026-10:00:00] [E] ...`."""
    errors = [line.partition("[E]")[2].strip() for line in log.splitlines() if "[E]" in line]
    told = "; ".join(errors[:2]) or (log.strip().splitlines() or ["nothing printed"])[-1]
    how = "was ended by signal %d" % -status if status < 0 else "failed"
    return "trtexec %s %s: %s" % (options[0].partition("=")[0], how, told[:400])


_GUARD = """
import os, shutil, sys, time
sys.stdin.read()
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""
"""Waits for the end of the process that started it, and removes a folder then."""


class _Folder:
    """A folder that goes with its object, and with this process even where it is killed, as edgekd ends a guest."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="edgekd-tensorrt-")
        guard = subprocess.Popen(
            [sys.executable, "-I", "-c", _GUARD, self.name],
            cwd=os.path.dirname(self.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.remove = weakref.finalize(self, _release, guard)


def _release(guard: subprocess.Popen[bytes]) -> None:
    guard.communicate()


# --- what it writes


def _latencies(text: str, warmup_ms: float) -> list[float]:
    """`latencyMs` of --exportTimes; older releases have the warm-up in the file too."""
    try:
        entries = json.loads(text)
        samples = [float(one["latencyMs"]) for one in entries if float(one["startComputeMs"]) >= warmup_ms]
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError("trtexec wrote other times than known: %s" % error) from error
    if not samples or not all(math.isfinite(sample) and sample > 0 for sample in samples):
        raise RuntimeError("trtexec wrote no times" if not samples else "trtexec wrote times that are none")
    return samples


def _layers(text: str, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Layers of --exportProfile. A layer's name is that of the nodes it is made of: "conv1 + relu1"."""
    layers = []
    try:
        for one in json.loads(text, strict=False)[1:]:
            kind = " + ".join(kinds[part] for part in one["name"].split(" + ") if part in kinds)
            ms = float(one.get("medianMs", one["averageMs"]))
            layers.append({"name": one["name"], "kind": kind, "ms": ms, "index": -1})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError("trtexec wrote another profile than known: %s" % error) from error
    return layers


_EXPORTED = re.compile(r'"name" : "(.*)"\s*,\s*"dimensions" : "(.*)"\s*,\s*"values" : \[ (.*) \]')


def _exported(text: str) -> dict[str, np.ndarray]:
    """Outputs of --exportOutput, which is no JSON where a value is nan or inf."""
    found = {}
    for name, dimensions, values in _EXPORTED.findall(text):
        shape = [int(size) for size in re.findall(r"\d+", dimensions)]
        try:
            numbers = np.array([float(value) for value in values.split(",") if value.strip()])
            found[name] = numbers.reshape(shape)
        except ValueError as error:
            raise RuntimeError("trtexec wrote another output than known: %s" % error) from error
    return found


_DUMPED = re.compile(r"Writing file for output binding (.*) \(with datatype \S+ and dimensions ([\d.]*)\) to (.*\.raw)")


def _dumped(log: str, folder: str, outputs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Outputs of --dumpRawBindingsToFile; the log says in which files they are."""
    dtypes = {one["name"]: one["dtype"] for one in outputs}
    found = {}
    for name, dimensions, file in _DUMPED.findall(log):
        if name in dtypes:
            shape = [int(size) for size in dimensions.split(".") if size]
            try:
                with open(os.path.join(folder, os.path.basename(file)), "rb") as opened:
                    data = opened.read()
            except OSError as error:
                raise RuntimeError("trtexec wrote no %s" % os.path.basename(file)) from error
            found[name] = np.frombuffer(data, _written(dtypes[name], len(data), math.prod(shape))).reshape(shape)
    return found


def _written(dtype: str, size: int, count: int) -> str:
    """The type of so many bytes: that of the file, or the narrower or wider one that TensorRT made of it."""
    for one in (dtype, {"int64": "int32", "float16": "float32"}.get(dtype, dtype)):
        if count * np.dtype(one).itemsize == size:
            return one
    raise RuntimeError("trtexec wrote %d bytes for %d values of %s" % (size, count, dtype))


_ALLOCATED = re.compile(r"TensorRT-managed allocation in .*now: CPU \d+, GPU (\d+) \(MiB\)")


def _gpu_bytes(log: str) -> int | None:
    """What TensorRT allocated on the GPU, by its [MemUsageChange]; None where it says nothing."""
    told = [int(number) for number in _ALLOCATED.findall(log)]
    return max(told) * MIB if told else None


# --- the model file: fields of onnx.proto3, for a device has no package that reads it

_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
"""TensorProto.DataType of what trtexec reads and writes in the same way in all releases."""
_HALF = 10


class _Model(NamedTuple):
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    kinds: dict[str, str]
    """Name of a node -> its operator."""
    precisions: list[str]


def _read_model(path: str) -> _Model:
    with open(path, "rb") as opened:
        data = memoryview(opened.read())
    graphs = [value for number, value in _fields(data) if number == 7 and isinstance(value, memoryview)]
    if not graphs:
        raise ValueError("no ONNX file: %s" % os.path.basename(path))
    graph = _parts(graphs[0], (1, 5, 11, 12))
    weights = [_parts(one, (2, 8)) for one in graph[5]]
    named = {_text_of(one[8]) for one in weights}
    inputs = [one for one in map(_described, graph[11]) if one["name"] not in named]
    outputs = [_described(one) for one in graph[12]]
    if not outputs:
        raise ValueError("an ONNX file without outputs: %s" % os.path.basename(path))
    nodes = [_parts(one, (3, 4)) for one in graph[1]]
    kinds = {_text_of(one[3]): _text_of(one[4]) for one in nodes}
    operators = {_text_of(one[4]) for one in nodes}
    halves = any(_HALF in one[2] for one in weights) or "float16" in {one["dtype"] for one in inputs + outputs}
    precisions = ["--int8"] * bool(operators & {"QuantizeLinear", "DequantizeLinear"}) + ["--fp16"] * halves
    return _Model(inputs, outputs, kinds, precisions)


def _described(value: Any) -> dict[str, Any]:
    """Name, shape (-1 where it is open) and dtype of a ValueInfoProto."""
    info = _parts(value, (1, 2))
    name = _text_of(info[1])
    tensor = _parts(_first(_parts(_first(info[2]), (1,))[1]), (1, 2))
    dtype = _DTYPES.get(tensor[1][-1] if tensor[1] else 0)
    if dtype is None:
        raise ValueError("%s is of a type that this engine does not pass to trtexec" % name)
    if not name or re.search(r"[,'\"*\s]", name):
        raise ValueError("trtexec cannot be told the name %r" % name)
    sizes = [_parts(one, (1,))[1] for one in _parts(_first(tensor[2]), (1,))[1]]
    shape = [int(size[-1]) if size and isinstance(size[-1], int) and size[-1] < 1 << 31 else -1 for size in sizes]
    return {"name": name, "shape": shape, "dtype": dtype}


def _bound(dtype: str, version: tuple[int, int, int]) -> str:
    """The type that TensorRT takes an input in."""
    return "int32" if dtype == "int64" and version[0] < 10 else dtype


def _shapes(inputs: Sequence[dict[str, Any]]) -> list[str]:
    told = ["%s:%s" % (one["name"], "x".join(map(str, one["shape"]))) for one in inputs]
    return ["--shapes=" + ",".join(told)] if told else []


def _first(values: list[Any]) -> memoryview:
    return values[0] if values and isinstance(values[0], memoryview) else memoryview(b"")


def _text_of(values: list[Any]) -> str:
    return bytes(_first(values)).decode(errors="replace")


def _parts(data: Any, wanted: Sequence[int]) -> dict[int, list[Any]]:
    """The values of some fields of a message, by number."""
    found: dict[int, list[Any]] = {number: [] for number in wanted}
    for number, value in _fields(data) if isinstance(data, memoryview) else ():
        if number in found:
            found[number].append(value)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: https://protobuf.dev/programming-guides/encoding."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(tag & 7, -1)
        if size < 0 or at + size > len(data):
            raise ValueError("no ONNX file, or a part of one")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("no ONNX file, or a part of one")


PLUGIN = TensorRT()
