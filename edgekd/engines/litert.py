"""LiteRT, the runtime of .tflite files, with XNNPACK as it is by default."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Sequence

import numpy as np

WHEELS = ("ai-edge-litert==2.3.0", "numpy==2.3.5")  # what a device that has nothing needs


class LiteRT:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".tflite",)
    runtime = "ai_edge_litert.interpreter"

    def version(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        return version("ai-edge-litert")

    def load(self, model: str, threads: int) -> LiteRTSession:
        """Load a model file."""
        return LiteRTSession(model, threads)


class LiteRTSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        from ai_edge_litert import interpreter

        self._model, self._threads = model, threads
        self._interpreter = interpreter.Interpreter(model_path=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.inputs = [_described(detail) for detail in self._inputs]
        self.outputs = [_described(detail) for detail in self._outputs]

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs, quantized by the model's own scale where they are integers."""
        for detail, array in zip(self._inputs, arrays):
            self._interpreter.set_tensor(detail["index"], _quantized(array, detail))

    def invoke(self) -> None:
        """Execute once."""
        self._interpreter.invoke()

    def fetch(self) -> list[np.ndarray]:
        """The outputs: floats and what stands for floats as float32, other integers as they are."""
        return [_dequantized(self._interpreter.get_tensor(detail["index"]), detail) for detail in self._outputs]

    def profile(self, feeds: Sequence[Sequence[np.ndarray]], count: int) -> list[list[dict[str, Any]]] | None:
        """What each of `count` inferences did: see edgekd/engines/_guest.py."""
        if not PLUGIN.version().startswith(_KNOWN_VERSION):
            return None
        inputs = {detail["name"]: _quantized(array, detail) for detail, array in zip(self._inputs, feeds[0])}
        shapes = {detail["name"]: [int(size) for size in detail["shape"]] for detail in self._inputs + self._outputs}
        try:
            return _Profiled(self._model, self._threads, inputs, shapes).runs(count)
        except _Refused as refused:  # such as outputs of a size that is known only when it runs
            sys.stderr.write("no profile: %s\n" % refused)
            return None


def _described(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": detail["name"],
        "shape": [int(size) for size in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
    }


def _quantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale and np.issubdtype(array.dtype, np.floating):
        limits = np.iinfo(detail["dtype"])
        array = np.clip(np.round(array / scale) + zero_point, limits.min, limits.max)
    return array.astype(detail["dtype"], copy=False)


def _dequantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale:
        array = (array.astype(np.float32) - zero_point) * scale
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


# --- the runtime's profiler, which only its C library reaches: litert/c/*.h of https://github.com/google-ai-edge/LiteRT

_KNOWN_VERSION = "2.3."
"""Whose C functions take what is given to them here."""
_OPERATOR, _DELEGATED = 2, 8
"""LiteRtProfilerEventType: an operator of the model, and one that XNNPACK made of some."""


class _Event(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class _Refused(Exception):
    """The library answered with an error."""


class _TensorType(ctypes.Structure):
    _fields_ = [
        ("element", ctypes.c_int),
        ("rank", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
        ("spare", ctypes.c_uint8 * 64),
    ]


class _Profiled:
    """A model, compiled anew by the C library with its profiler switched on."""

    def __init__(self, model: str, threads: int, inputs: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> None:
        import ai_edge_litert

        self._library = ctypes.CDLL(os.path.join(os.path.dirname(ai_edge_litert.__file__), "libLiteRt.so"))
        self._kept: list[Any] = []  # what the library holds on to
        self._shapes = shapes
        environment = self._make("CreateEnvironment", ctypes.c_int(0), None)
        loaded = self._make("CreateModelFromFile", environment, ctypes.c_char_p(model.encode()))
        options = self._make("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, ctypes.c_int(1))
        self._opaque(options, b"runtime_options_string", b"enable_profiling = true\n")
        self._opaque(options, b"xnnpack", b"num_threads = %d\n" % threads)
        self._compiled = self._make("CreateCompiledModel", environment, loaded, options)
        self._profiler = self._make("CompiledModelGetProfiler", self._compiled)
        signature = self._make("GetModelSignature", loaded, ctypes.c_size_t(0))
        self._inputs = self._buffers("Input", environment, signature)
        self._outputs = self._buffers("Output", environment, signature)
        for name, buffer in self._inputs:
            self._write(buffer, np.ascontiguousarray(inputs[name]))

    def runs(self, count: int) -> list[list[dict[str, Any]]]:
        """The events of each of `count` inferences, after three that are not watched."""
        for _ in range(3):
            self._run()
        return [self._watched() for _ in range(count)]

    def _watched(self) -> list[dict[str, Any]]:
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        self._run()
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * max(1, count.value))()
        self._call("GetProfilerEvents", self._profiler, ctypes.c_int(count.value), events)
        return [
            {
                "name": "",
                "kind": (event.tag or b"").decode(errors="replace"),
                "ms": event.elapsed_us / 1000,
                "index": event.index if event.type == _OPERATOR else -1,
            }
            for event in events[: count.value]
            if event.type in (_OPERATOR, _DELEGATED) and event.subgraph == 0
        ]

    def _run(self) -> None:
        inputs, outputs = (
            (ctypes.c_void_p * max(1, len(b)))(*(x for _, x in b)) for b in (self._inputs, self._outputs)
        )
        sizes = ctypes.c_size_t(len(self._inputs)), ctypes.c_size_t(len(self._outputs))
        self._call("RunCompiledModel", self._compiled, ctypes.c_size_t(0), sizes[0], inputs, sizes[1], outputs)

    def _buffers(self, side: str, environment: Any, signature: Any) -> list[tuple[str, int | None]]:
        count = ctypes.c_size_t()
        self._call("GetNumSignature%ss" % side, signature, ctypes.byref(count))
        made = []
        for index in range(count.value):
            place = ctypes.c_size_t(index)
            tensor = self._make("GetSignature%sTensorByIndex" % side, signature, place)
            name = ctypes.c_char_p()
            self._call("GetTensorName", tensor, ctypes.byref(name))
            called = (name.value or b"").decode(errors="replace")
            kind = _TensorType()
            self._call("GetRankedTensorType", tensor, ctypes.byref(kind))
            for axis, size in enumerate(self._shapes[called]):  # the file says -1 where any size goes
                kind.dimensions[axis] = size
            wanted = self._make(
                "GetCompiledModel%sBufferRequirements" % side, self._compiled, ctypes.c_size_t(0), place
            )
            kind_place = ctypes.byref(kind)
            buffer = self._make("CreateManagedTensorBufferFromRequirements", environment, kind_place, wanted)
            made.append((called, buffer.value))
        return made

    def _write(self, buffer: int | None, array: np.ndarray) -> None:
        size, place = ctypes.c_size_t(), ctypes.c_void_p()
        self._call("GetTensorBufferPackedSize", ctypes.c_void_p(buffer), ctypes.byref(size))
        if size.value != array.nbytes:
            raise ValueError("an input of %d bytes was given %d" % (size.value, array.nbytes))
        self._call("LockTensorBuffer", ctypes.c_void_p(buffer), ctypes.byref(place), ctypes.c_int(1))
        ctypes.memmove(place, array.ctypes.data, array.nbytes)
        self._call("UnlockTensorBuffer", ctypes.c_void_p(buffer))

    def _opaque(self, options: Any, identifier: bytes, content: bytes) -> None:
        """Add an option that the library knows by its name, as text."""
        held = ctypes.create_string_buffer(content)
        keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        self._kept += [held, keep]
        place = ctypes.cast(held, ctypes.c_void_p)
        self._call(
            "AddOpaqueOptions", options, self._make("CreateOpaqueOptions", ctypes.c_char_p(identifier), place, keep)
        )

    def _make(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        """What a function writes behind its last pointer."""
        made = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(made))
        if not made.value:
            raise _Refused("LiteRt%s made nothing" % function)
        return made

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, "LiteRt" + function)(*arguments)
        if status:
            raise _Refused("LiteRt%s: status %d" % (function, status))


PLUGIN = LiteRT()
