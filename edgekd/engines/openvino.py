"""OpenVINO on the CPU, in float32 wherever the model is: what its file says, and not what this CPU likes best."""

from __future__ import annotations

import sys
from typing import Any, Sequence

import numpy as np

WHEELS = ("openvino==2026.4.1", "numpy==2.3.5")  # what a device that has nothing needs

WARMUP = 3


class OpenVINO:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".xml",)
    runtime = "openvino"

    def prepare(self) -> None:
        """Leave its telemetry out, which reports over the network."""
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

    def version(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        return version("openvino")

    def load(self, model: str, threads: int) -> OpenVINOSession:
        """Load a model file."""
        return OpenVINOSession(model, threads)


class OpenVINOSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        import openvino

        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        self._compile: Any = lambda more: openvino.Core().compile_model(model, "CPU", dict(properties, **more))
        compiled = self._compile({})
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._kept: list[np.ndarray] = []
        self.inputs = [_described(port) for port in compiled.inputs]
        self.outputs = [_described(port) for port in compiled.outputs]

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        self._kept = [np.ascontiguousarray(array, given["dtype"]) for given, array in zip(self.inputs, arrays)]
        for index, array in enumerate(self._kept):
            self._request.set_input_tensor(index, self._tensor(array, shared_memory=True))

    def invoke(self) -> None:
        """Execute once."""
        self._request.infer(share_outputs=True)

    def fetch(self) -> list[np.ndarray]:
        """The outputs, floats as float32."""
        arrays = [self._request.get_output_tensor(index).data for index in range(len(self.outputs))]
        return [np.array(array, np.float32 if array.dtype.kind == "f" else array.dtype) for array in arrays]

    def profile(self, feeds: Sequence[Sequence[np.ndarray]], count: int) -> list[list[dict[str, Any]]]:
        """What three times a third of `count` inferences did: see edgekd/engines/_guest.py."""
        return [self._profiled(feeds, max(1, count // 3)) for _ in range(3)]

    def _profiled(self, feeds: Sequence[Sequence[np.ndarray]], count: int) -> list[dict[str, Any]]:
        """Means, for OpenVINO's times are means of all inferences so far; the first ones prepare weights."""
        request = self._compile({"PERF_COUNT": True}).create_infer_request()
        first: list[Any] = []
        for turn in range(WARMUP + count):
            if turn == WARMUP:
                first = request.get_profiling_info()
            arrays = zip(self.inputs, feeds[turn % len(feeds)])
            kept = [np.ascontiguousarray(array, given["dtype"]) for given, array in arrays]
            for index, array in enumerate(kept):
                request.set_input_tensor(index, self._tensor(array, shared_memory=True))
            request.infer()
        nodes = []
        for before, after in zip(first, request.get_profiling_info()):
            if after.status == after.Status.EXECUTED:
                seconds = [one.real_time.total_seconds() for one in (before, after)]
                ms = 1000 * max(0.0, ((WARMUP + count) * seconds[1] - WARMUP * seconds[0]) / count)
                kind = "%s %s" % (after.node_type, after.exec_type)
                nodes.append({"name": after.node_name, "kind": kind, "ms": ms, "index": -1})
        return nodes


def _described(port: Any) -> dict[str, Any]:
    names = sorted(port.get_names()) or [port.get_node().get_friendly_name()]
    return {
        "name": names[0],
        "shape": [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()],
        "dtype": np.dtype(port.get_element_type().to_dtype()).name,
    }


PLUGIN = OpenVINO()
