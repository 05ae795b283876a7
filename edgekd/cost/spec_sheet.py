"""A roofline from the spec sheet alone (Williams et al. 2009): good enough to rank students, not to gate on.

Each layer takes as long as its arithmetic at the core's peak times an efficiency, or as its traffic at the memory's
peak times an efficiency, whichever is longer, plus a fixed cost of calling its kernel. The efficiencies are round
numbers chosen once against published MobileNetV1 latencies of three boards; `benchmarks/fit/spec_sheet.py` prints
how far the model is off on published rows that were not looked at.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgekd.cost import CostModel
from edgekd.specs import Cluster, Cost, Interval, Target

if TYPE_CHECKING:
    from edgekd.nets import Anatomy, Layer

MACS_PER_CYCLE: Final[dict[str, dict[str, float]]] = {
    "cortex-a53": {"fp32": 2, "int8": 4},
    "cortex-a55": {"fp32": 4, "int8": 16},
    "cortex-a57": {"fp32": 4, "int8": 8},
    "cortex-a72": {"fp32": 4, "int8": 8},
    "cortex-a75": {"fp32": 8, "int8": 16},
    "cortex-a76": {"fp32": 8, "int8": 32},
    "cortex-a78ae": {"fp32": 8, "int8": 32},
    "apple-firestorm": {"fp32": 16, "fp16": 32, "int8": 64},
    "gracemont": {"fp32": 8, "int8": 32},
    "cortex-m7": {"fp32": 1, "int8": 2},
    "cortex-m55": {"fp32": 2, "int8": 8},
}
"""Multiply-accumulates that a core can issue a cycle: vector pipes x lanes (Arm's and Intel's optimisation guides).

Of Cortex-M7 the two of SMLAD, for which CMSIS-NN widens int8 to 16 bits (Lai et al. 2018, arXiv:1801.06601); of
Cortex-M55 64 bits of a vector a cycle (Arm, Cortex-M55 Processor Datasheet: two 32-bit, four 16-bit or eight 8-bit).
"""

UNKNOWN_CORE: Final[dict[str, float]] = {"fp32": 4, "int8": 8}
EFFICIENCY: Final[dict[str, float]] = {
    "conv": 0.6,
    "linear": 0.5,
    "depthwise": 0.2,
    "pool": 0.1,
    "elementwise": 0.1,
    "embedding": 0.1,
}
REQUANTIZE_CYCLES: Final = 1.5
"""Of one int8 output, from its 32-bit sum."""
BANDWIDTH_SHARE: Final = 0.4
"""Of the bus's theoretical peak, that kernels reach."""
CALL_US: Final = 3.0
"""Microseconds to dispatch a kernel on a core at 1 GHz."""
SPREAD: Final = 2.5
"""The interval is value / SPREAD to value x SPREAD."""

BYTES: Final[dict[str, tuple[float, float]]] = {
    "fp32": (4, 4),
    "fp16": (2, 2),
    "dynamic": (1, 4),
    "int16": (1, 2),
    "int8": (1, 1),
    "w8a8": (1, 1),
    "palette6": (0.75, 2),
    "palette4": (0.5, 2),
}
"""Of a weight and of an activation; a precision that is not here counts as fp32."""
ARITHMETIC: Final[dict[str, str]] = {
    "dynamic": "int8",
    "int16": "fp32",
    "w8a8": "int8",
    "palette6": "fp16",
    "palette4": "fp16",
}
"""Whose peak counts for a precision, where it is not its own."""
FILE_BYTES_PER_LAYER: Final = 700
"""Graph records of a layer in a .tflite or .onnx file, as our exports have them."""
FILE_BYTES_PER_CHANNEL: Final[dict[str, int]] = {"fp32": 4, "fp16": 4, "int8": 28, "w8a8": 28, "int16": 28}
"""Bias, and with int8 the scale and zero point of each channel's weights and bias."""
FILE_BYTES_FIXED: Final = 6000


class _SpecSheet:
    def cores(self) -> tuple[str, ...]:
        return tuple(MACS_PER_CYCLE)

    def estimate(self, anatomy: "Anatomy", target: Target, precision: str) -> Cost:
        return self.estimate_all([anatomy], target, precision)[0]

    def estimate_all(self, anatomies: Sequence["Anatomy"], target: Target, precision: str) -> list[Cost]:
        cluster = target.device.clusters[0]
        threads = min(target.threads, cluster.count)
        bandwidth = target.device.memory_bandwidth_bytes_s
        layers = {layer for anatomy in anatomies for layer in anatomy.layers}
        times = {layer: _seconds(layer, cluster, threads, bandwidth, precision) for layer in layers}
        return [
            _cost(anatomy, 1e3 * sum(times[layer] for layer in anatomy.layers), target, precision)
            for anatomy in anatomies
        ]


def _cost(anatomy: "Anatomy", milliseconds: float, target: Target, precision: str) -> Cost:
    weight_bytes, activation_bytes = BYTES.get(precision, BYTES["fp32"])
    weights = sum(layer.weights for layer in anatomy.layers)
    channels = sum(layer.channels for layer in anatomy.layers if layer.weights)
    file_bytes = (
        FILE_BYTES_FIXED
        + math.ceil(weights * weight_bytes)
        + channels * FILE_BYTES_PER_CHANNEL.get(precision, 4)
        + len(anatomy.layers) * FILE_BYTES_PER_LAYER
    )
    resident = 0 if target.device.flash_bytes else math.ceil(weights * weight_bytes)
    return Cost(
        latency_ms=Interval(value=milliseconds, low=milliseconds / SPREAD, high=milliseconds * SPREAD),
        peak_memory_bytes=resident + math.ceil(anatomy.arena_elements * activation_bytes),
        file_bytes=file_bytes,
        macs=anatomy.macs,
        parameters=anatomy.parameters,
        tier="spec sheet only: ranking, not a number to gate on",
    )


def _seconds(layer: "Layer", cluster: Cluster, threads: int, bandwidth: float, precision: str) -> float:
    sizes = (layer.macs, layer.inputs, layer.outputs, layer.weights)
    return seconds(layer.kind, *sizes, cluster, threads, bandwidth, precision)


def seconds(
    kind: str,
    macs: float,
    reads: float,
    writes: float,
    weights: float,
    cluster: Cluster,
    threads: int,
    bandwidth: float,
    precision: str,
) -> float:
    """Of one kernel, by its class and its sizes in elements; `bandwidth` is the bus's peak in bytes a second."""
    peaks = MACS_PER_CYCLE.get(cluster.core, UNKNOWN_CORE)
    hertz = cluster.clock_mhz * 1e6
    # Dot products need several channels, which a depthwise filter does not have.
    per_cycle = peaks["fp32"] if kind == "depthwise" else peaks.get(ARITHMETIC.get(precision, precision), peaks["fp32"])
    found = (macs or writes) / (per_cycle * EFFICIENCY[kind]) / hertz / threads
    if ARITHMETIC.get(precision, precision) == "int8":
        found += writes * REQUANTIZE_CYCLES / hertz / threads
    weight_bytes, activation_bytes = BYTES.get(precision, BYTES["fp32"])
    read = writes if kind == "embedding" else weights  # of a table the rows that are asked for
    traffic = read * weight_bytes + (reads + writes) * activation_bytes
    return max(found, traffic / (bandwidth * BANDWIDTH_SHARE)) + CALL_US * 1e-6 * (1e9 / hertz)


PLUGIN: Final[CostModel] = _SpecSheet()
