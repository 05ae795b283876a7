"""Core ML itself, on any of a Mac's CPU, GPU and Neural Engine; where there is no Mac, `mil` checks the same files."""

from __future__ import annotations

import platform
import sys
from typing import Any, Sequence

import numpy as np

IS_MAC = sys.platform == "darwin"


class CoreML:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".mlpackage",)
    runtime = "coremltools" if IS_MAC else "CoreML"  # of macOS; coremltools alone converts, and runs nothing
    needs = "" if IS_MAC else "a Mac"

    def version(self) -> str:
        """Versions of macOS and of coremltools, or only of the latter."""
        from importlib.metadata import version

        return "/".join(filter(None, [platform.mac_ver()[0], version("coremltools")]))

    def load(self, model: str, threads: int) -> CoreMLSession:
        """Load a model package; Core ML chooses its threads itself."""
        return CoreMLSession(model)

    def plan(self, model: str) -> list[dict[str, Any]]:
        """Of each operation its kind, its outputs, the device that Core ML prefers and its share of all the work."""
        _check_system()
        from coremltools.models import MLModel
        from coremltools.models.compute_plan import MLComputePlan

        loaded = MLModel(model)  # kept, for its compiled copy goes with it
        plan = MLComputePlan.load_from_path(loaded.get_compiled_model_path())
        operations = plan.model_structure.program.functions["main"].block.operations
        return [_planned(plan, operation) for operation in operations if operation.operator_name != "const"]


class CoreMLSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str) -> None:
        _check_system()
        from coremltools import ComputeUnit
        from coremltools.models import MLModel

        self._model = MLModel(model, compute_units=ComputeUnit.ALL)
        description = self._model.get_spec().description
        self.inputs = [_described(feature) for feature in description.input]
        self.outputs = [_described(feature) for feature in description.output]
        self._feeds: dict[str, np.ndarray] = {}
        self._results: dict[str, Any] = {}

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        self._feeds = {given["name"]: np.asarray(array, given["dtype"]) for given, array in zip(self.inputs, arrays)}

    def invoke(self) -> None:
        """Execute once."""
        self._results = self._model.predict(self._feeds)

    def fetch(self) -> list[np.ndarray]:
        """The outputs, floats as float32."""
        arrays = [np.asarray(self._results[given["name"]]) for given in self.outputs]
        return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]


def _check_system() -> None:
    if not IS_MAC:
        raise RuntimeError("Core ML runs on macOS; elsewhere the engine `mil` executes the same files")


def _described(feature: Any) -> dict[str, Any]:
    from coremltools.proto.FeatureTypes_pb2 import ArrayFeatureType

    array = feature.type.multiArrayType
    kind = ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
    return {"name": feature.name, "shape": list(array.shape), "dtype": "float64" if kind == "double" else kind}


def _planned(plan: Any, operation: Any) -> dict[str, Any]:
    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
    cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
    return {
        "kind": operation.operator_name,
        "outputs": [output.name for output in operation.outputs],
        "device": _device(usage.preferred_compute_device) if usage else "",
        "cost": cost.weight if cost else 0.0,
    }


def _device(device: Any) -> str:
    """ "CPU", "GPU" or "NeuralEngine"."""
    return type(device).__name__.replace("ML", "").replace("ComputeDevice", "")


PLUGIN = CoreML()
