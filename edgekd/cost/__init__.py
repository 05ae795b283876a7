"""What a model costs on a device that is not here. Everything that comes from here is `estimated`.

    from edgekd import cost
    from edgekd.shipped import load_target

    found = cost.estimate("model.tflite", load_target("android-high"))
    found.latency_ms, found.low_ms, found.high_ms, found.tier

To add a model of cost for the planner, write `edgekd/cost/<name>.py` that ends in `PLUGIN: CostModel = ...`.
tests/contracts/test_cost.py finds it. A target names the one it wants as `cost_profile`, or a profile that
`edgekd calibrate` made.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekd import fitted
from edgekd.errors import ConfigError
from edgekd.kernels import Kernels
from edgekd.plugins import find
from edgekd.specs import Cost, NonNegative, Provenance, Size, Spec, Target

if TYPE_CHECKING:
    from edgekd.nets import Anatomy  # brings torch, which an estimate of a file does without


class CostModel(Protocol):
    """Predicts latency, memory and file size."""

    def cores(self) -> tuple[str, ...]:
        """Names of the cores that it knows."""

    def estimate(self, anatomy: "Anatomy", target: Target, precision: str) -> Cost:
        """Cost of one inference of one example.

        `precision` is a converter's: "fp32", "fp16", "int8" ...
        """

    def estimate_all(self, anatomies: Sequence["Anatomy"], target: Target, precision: str) -> list[Cost]:
        """As `estimate` of each net, in less time: a search costs thousands."""


class KernelTime(Spec, frozen=True, kw_only=True, rename={"kind": "class"}):
    """One call of a runtime, and how long it takes."""

    op: str
    """In the format's words."""
    kind: str
    """One of `edgekd.kernels.CLASSES`; "class" in JSON."""
    ms: NonNegative
    name: str = ""


class Arena(Spec, frozen=True, kw_only=True):
    """Memory of activations."""

    arena_bytes: Size
    """Planned: tensors that are alive at once share nothing."""
    builtin_arena_bytes: Size
    """With what TFLite's own kernels gather for convolutions where no delegate (XNNPACK) takes them."""


class Measured(Spec, frozen=True, kw_only=True):
    """What an estimate rests on."""

    what: str
    """In words."""
    model: str = ""
    ms: NonNegative | None = None
    device: str = ""
    runtime: str = ""
    threads: Size = 0
    source: str = ""
    provenance: Provenance = "measured"


class Estimate(Spec, frozen=True, kw_only=True):
    """What a model costs on a target, and how far that can be trusted."""

    target: str
    engine: str
    precision: str
    threads: Size
    latency_ms: NonNegative
    low_ms: NonNegative
    """Nine of ten measurements are between this and `high_ms`."""
    high_ms: NonNegative
    memory: Arena
    file_bytes: Size
    macs: Size
    kernels: tuple[KernelTime, ...]
    tier: str
    """"calibrated", "anchored on N measurements" or "spec sheet only: ranking, not a number to gate on"."""
    evidence: tuple[Measured, ...]
    """The measurements most like it."""
    notes: tuple[str, ...] = ()
    """What was assumed."""
    provenance: Provenance = "estimated"


def estimate(
    model: str | Path,
    target: Target,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    profile: str | None = None,
) -> Estimate:
    """What one inference of a model costs on a target.

    Args:
        model: a .tflite, .onnx, OpenVINO or Core ML file, or a torch module as `module:function`.
        target: the device.
        inputs: sizes, batch included, of inputs that the model leaves open.
        engine: a runtime; else the target's first that executes the model's format.
        precision: "fp32", "int8" ...; else what the file has, and fp32 of a module.
        threads: of the runtime; else the target's.
        profile: the name of a profile that `edgekd calibrate` made.

    Raises:
        ConfigError: there is no such model or profile, or the model is damaged.
        PluginUnavailable: a package that reads it is not installed.
    """
    from edgekd.cost._estimate import estimate as made

    return made(model, target, inputs, engine, precision, threads, profile)


def model_of(target: Target) -> CostModel:
    """The cost model that a target names; a profile of the user's own is one, too.

    Raises:
        UnknownPlugin: there is none of that name.
    """
    own = target.cost_profile in fitted.own_names()
    found: CostModel = find(sys.modules[__name__], "profiles" if own else target.cost_profile)
    return found


def seen(model: str) -> tuple[str, Kernels, str]:
    """A model's format ("torch" for a module), its kernels, and the precision of most of its arithmetic.

    Raises:
        ConfigError, PluginUnavailable: as `estimate`.
    """
    from edgekd.cost._estimate import lowered

    format_, found, _ = lowered(model, {})
    return format_, found.kernels, found.precision


def runtime_of(engine: str) -> tuple[str, str]:
    """The runtime and the unit that an engine's profiles are fitted for."""
    from edgekd.cost._estimate import RUNTIMES

    return RUNTIMES.get(engine, (engine, "gpu" if engine in ACCELERATED else "cpu"))


def costed_as(runtime: str, precision: str) -> str:
    """The precision that another one is costed as, where no profile tells them apart."""
    return "fp16" if runtime == "ncnn" and precision == "fp32" else precision


def executes() -> Mapping[str, tuple[str, ...]]:
    """Format -> engines that execute it."""
    from edgekd.cost._estimate import EXECUTES

    return EXECUTES


ACCELERATED = frozenset({"coreml", "tensorrt"})
"""Engines that execute most of a net somewhere else than on the cores of the processor."""


def peaks(core: str, clock_mhz: float, threads: int, precision: str) -> float:
    """Multiply-accumulates a millisecond that so many cores can issue, by their spec sheet."""
    from edgekd.cost.spec_sheet import ARITHMETIC, MACS_PER_CYCLE, UNKNOWN_CORE

    by_precision = MACS_PER_CYCLE.get(core, UNKNOWN_CORE)
    per_cycle = by_precision.get(ARITHMETIC.get(precision, precision), by_precision["fp32"])
    return per_cycle * clock_mhz * 1e3 * threads


def wrap(own: Any) -> CostModel:
    """A user's own cost model."""
    for method in ("estimate", "estimate_all"):
        if not hasattr(own, method):
            raise ConfigError(
                f"{own!r} is not a cost model: it has no {method}",
                hint="see edgekd/cost/__init__.py for what it must have",
            )
    return own  # type: ignore[no-any-return]  # checked above as far as one can
