"""edgekd's own interpreter of Core ML packages: checks graph and weights where there is no Mac, and times nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np


class Mil:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".mlpackage",)
    runtime = "torch"
    timed = False

    def version(self) -> str:
        """Version of edgekd."""
        from importlib.metadata import version

        return version("edgekd")

    def load(self, model: str, threads: int) -> MilSession:
        """Load a model package."""
        return MilSession(model, threads)


class MilSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        import torch

        from edgekd import coreml

        torch.set_num_threads(threads)
        self._execute = coreml.execute
        self._program = coreml.open_package(Path(model))
        self.inputs = [_described(spec) for spec in self._program.inputs]
        self.outputs = [_described(spec) for spec in self._program.outputs]
        self._feeds: list[np.ndarray] = []
        self._results: dict[str, Any] = {}

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        self._feeds = [np.asarray(array, given["dtype"]) for given, array in zip(self.inputs, arrays)]

    def invoke(self) -> None:
        """Execute once."""
        self._results = self._execute(self._program, self._feeds)

    def fetch(self) -> list[np.ndarray]:
        """The outputs, floats as float32."""
        arrays = [np.asarray(self._results[given["name"]]) for given in self.outputs]
        return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]


def _described(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


PLUGIN = Mil()
