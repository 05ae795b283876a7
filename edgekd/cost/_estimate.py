"""An estimate of a model on a target: its kernels, the best profile that there is, and what memory it takes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekd import fitted, formats, sources
from edgekd.cost import Arena, Estimate, KernelTime, Measured, peaks, runtime_of
from edgekd.cost.spec_sheet import (
    BYTES,
    FILE_BYTES_FIXED,
    FILE_BYTES_PER_CHANNEL,
    FILE_BYTES_PER_LAYER,
    SPREAD,
    seconds,
)
from edgekd.errors import ConfigError
from edgekd.files import members
from edgekd.fitted import SPEC_SHEET, Predictor, Profile
from edgekd.kernels import CLASSES, Kernels
from edgekd.lowering import Lowered, lower
from edgekd.specs import Interval, Target

RUNTIMES: Final[Mapping[str, tuple[str, str]]] = {
    "litert": ("tflite", "cpu"),
    "tflite_runtime": ("tflite", "cpu"),
    "litert-gpu": ("tflite", "gpu"),
    "pytorch-mobile": ("pytorch-mobile", "cpu"),
    "ncnn": ("ncnn", "cpu"),
    "ncnn-vulkan": ("ncnn", "gpu"),
}
"""Engine -> the runtime and unit that profiles are fitted for; of other engines there are no measurements yet."""
EXECUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "tflite": ("litert", "tflite_runtime", "litert-gpu", "tflite_micro"),
    "onnx": ("onnxruntime", "tensorrt", "ncnn", "ncnn-vulkan"),
    "openvino": ("openvino",),
    "coreml": ("coreml", "mil"),
}
AS: Final[Mapping[str, tuple[str, float, str]]] = {
    "fp16": ("fp32", 0.1, "fp16 weights are computed with in fp32"),
    "dynamic": ("int8", 0.4, "integer weights with float activations are costed as int8"),
    "int16": ("fp32", 0.4, "int16 activations are costed as fp32"),
}
"""A precision that nobody measured on TFLite -> the one that it is costed as, how far that may be off in log units,
and why."""


def lowered(model: str, inputs: Mapping[str, tuple[int, ...]]) -> tuple[str, Lowered, int]:
    """A model's format ("torch" for a module), what is executed of it, and the bytes of its file, 0 of a module.

    Raises:
        ConfigError: there is no such model, or it is damaged.
    """
    path = Path(model)
    if ":" in model and not path.exists():
        return "torch", _of_module(model, inputs), 0
    format_ = formats.format_of(path)
    found = lower(formats.program(path, inputs))
    return format_, found, sum(one.stat().st_size for one in members(path))


def _of_module(name: str, inputs: Mapping[str, tuple[int, ...]]) -> Lowered:
    import torch

    from edgekd.lowering._torch import kernels_of
    from edgekd.nets import examined

    model = sources.open_model(name, inputs)
    dtypes = {"int64": torch.int64, "int32": torch.int32}
    examples = [
        torch.empty(one.shape, device="meta", dtype=dtypes.get(one.dtype, torch.float32)) for one in model.inputs
    ]
    described = examined(model.module, examples)
    kernels = kernels_of(described)
    arena = 4 * described.arena_elements
    return Lowered(kernels, described.macs, arena, arena, "fp32", ())


def estimate(
    model: str | Path,
    target: Target,
    inputs: Mapping[str, Any] | None,
    engine: str | None,
    precision: str | None,
    threads: int | None,
    profile: str | None,
) -> Estimate:
    """See `edgekd.cost.estimate`."""
    shapes = {name: tuple(shape) for name, shape in (inputs or {}).items()}
    format_, found, file_bytes = lowered(str(model), shapes)
    if not len(found.kernels):
        raise ConfigError(f"{model}: it computes nothing", hint="what it answers is what it is given")
    notes = list(found.notes)
    chosen = engine or _engine(format_, target, notes)
    wanted = precision or found.precision
    if format_ == "torch":
        file_bytes = _file_bytes(found.kernels, wanted)
        notes.append("the file's size is that of an export, about")
    count = threads or target.threads
    kernels = found.kernels
    evidence: tuple[Measured, ...] = ()
    predictor = choose(target, chosen, wanted, count, profile)
    if predictor is None:
        each = _by_roofline(kernels, target, wanted, count)
        total = float(each.sum())
        value = Interval(value=total, low=total / SPREAD, high=total * SPREAD)
        tier = SPEC_SHEET
        notes.append(f"nobody has measured {chosen} at {wanted}: a roofline of the spec sheet")
    else:
        features = predictor.family.features_of(kernels)
        each, whole = predictor.parts(features), features.sum(axis=0, keepdims=True)
        made = predictor.predict(whole)
        value = Interval(value=float(made.ms[0]), low=float(made.low[0]), high=float(made.high[0]))
        tier, evidence = predictor.tier, _evidence(predictor, whole[0])
        notes += predictor.notes
    arena, builtin = (_scaled(size, format_, wanted) for size in (found.arena_bytes, found.builtin_arena_bytes))
    return Estimate(
        target=target.name,
        engine=chosen,
        precision=wanted,
        threads=count,
        latency_ms=value.value,
        low_ms=value.low,
        high_ms=value.high,
        memory=Arena(arena_bytes=arena, builtin_arena_bytes=builtin),
        file_bytes=file_bytes,
        macs=found.macs,
        kernels=tuple(
            KernelTime(op=op, kind=CLASSES[kind], ms=float(ms), name=name)
            for op, kind, ms, name in zip(kernels.ops, kernels.kinds, each, kernels.names, strict=True)
        ),
        tier=tier,
        evidence=evidence,
        notes=tuple(notes),
    )


def _engine(format_: str, target: Target, notes: list[str]) -> str:
    """The target's first engine that executes the format, or its first one."""
    able = EXECUTES.get(format_, ())
    for name in target.engines:
        if name in able:
            return name
    if format_ != "torch":
        notes.append(f"no engine of {target.name} executes this format: costed as an export for {target.engines[0]}")
    return target.engines[0]


# --- which profile


def choose(target: Target, engine: str, precision: str, threads: int, name: str | None = None) -> Predictor | None:
    """The best that is known of an engine on a target: measured there, on others of its family, or nothing (None).

    Raises:
        ConfigError: the user's profile of that name is not there, or has nothing of this engine and precision.
    """
    runtime, unit = runtime_of(engine)
    candidates = fitted.own(name) if name else _profiles(target)
    for costed, extra, why in _as(runtime, precision):
        notes = (why,) if why else ()
        same = [one for one in candidates if one.key == (runtime, unit, costed)]
        if same:
            return _nearest_threads(same, threads, unit, extra, notes)
        found = fitted.family(runtime, unit, costed)
        if found and found.speed and unit == "cpu" and not name:
            cluster = target.device.clusters[0]
            peak = peaks(cluster.core, cluster.clock_mhz, min(threads, cluster.count), costed)
            made = fitted.by_spec(found, peak)
            return replace(made, extra=extra, notes=notes)
    if name:
        raise ConfigError(
            f"profile {name!r} has nothing of {engine} at {precision}",
            hint="it has " + ", ".join(sorted({f"{one.runtime} {one.precision}" for one in candidates})),
        )
    return None


def _profiles(target: Target) -> list[Profile]:
    """Those of the target's device, a user's own first where the target names it."""
    mine = list(fitted.own(target.cost_profile)) if target.cost_profile in fitted.own_names() else []
    return mine + [one for one in fitted.shipped().profiles if target.name in one.targets]


def _as(runtime: str, precision: str) -> list[tuple[str, float, str]]:
    if runtime == "ncnn" and precision in {"fp32", "fp16"}:
        return [("fp16", 0.0, "ncnn computes in fp16 where the core can")]
    exact = (precision, 0.0, "")
    return [exact, AS[precision]] if precision in AS and runtime in {"tflite", "pytorch-mobile"} else [exact]


def _nearest_threads(
    profiles: list[Profile], threads: int, unit: str, extra: float, notes: tuple[str, ...]
) -> Predictor:
    """The profile of so many threads; of another number where nobody measured this one, which the interval shows."""
    if unit == "gpu":
        return fitted.of_profile(profiles[0], extra, notes)
    at = min(range(len(profiles)), key=lambda index: (abs(math.log2(max(1, profiles[index].threads) / threads)), index))
    best = profiles[at]
    if best.threads == threads:
        return fitted.of_profile(best, extra, notes)
    ratio = max(1, best.threads) / threads
    apart = f"measured with {best.threads} threads, and not {threads}: scaled by {ratio:.2g}"
    spread = math.hypot(extra, fitted.SPREAD_BY_THREADS * (1 + abs(math.log2(ratio))))
    made = fitted.of_profile(best, spread, (*notes, apart))
    scaled = replace(made.fit, log=made.fit.log + math.log(ratio))
    return replace(made, fit=scaled)


def _evidence(predictor: Predictor, totals: Any) -> tuple[Measured, ...]:
    profile = predictor.profile
    if profile is None:
        held = predictor.family.held.get("spec sheet")
        if held is None:
            return ()
        what = f"{held.rows} measurements of {predictor.family.runtime}, {held.what} left out: {held.mape:.0%} off"
        return (Measured(what=what, source="; ".join(predictor.family.sources)),)
    found = [
        Measured(
            what=f"{one.model} took {one.ms:g} ms on {profile.device}",
            model=one.model,
            ms=one.ms,
            device=profile.device,
            runtime=f"{profile.runtime} {profile.version}",
            threads=profile.threads,
            source="; ".join(profile.sources),
        )
        for one in predictor.nearest(totals)
    ]
    if profile.held:
        held = profile.held
        off = f"{held.mape:.1%} off, {held.within_10:.0%} within 10%"
        what = f"{held.rows} measurements there, {held.what} left out: {off}"
        found.append(Measured(what=what, device=profile.device, source="; ".join(profile.sources)))
    return tuple(found)


# --- without measurements


def _by_roofline(kernels: Kernels, target: Target, precision: str, threads: int) -> Any:
    """Milliseconds of each kernel, by the spec sheet alone."""
    cluster = target.device.clusters[0]
    kinds = {"pointwise": "conv", "grouped": "conv", "matmul": "linear"}
    names = {"conv", "linear", "depthwise", "pool", "elementwise", "embedding"}
    found = []
    for row, kind in zip(kernels.numbers, kernels.kinds, strict=True):
        macs, reads, writes, weights = row[:4]
        name = kinds.get(CLASSES[kind], CLASSES[kind])
        found.append(
            seconds(
                name if name in names else "elementwise", macs, reads, writes, weights, cluster,
                min(threads, cluster.count), target.device.memory_bandwidth_bytes_s, precision,
            )
        )  # fmt: skip
    return np.array(found) * 1e3


def _file_bytes(kernels: Kernels, precision: str) -> int:
    weights = kernels.column("weights")
    channels = kernels.column("outside")[weights > 0].sum()
    per_weight = BYTES.get(precision, BYTES["fp32"])[0]
    per_channel = FILE_BYTES_PER_CHANNEL.get(precision, 4)
    of_weights = float(weights.sum() * per_weight + channels * per_channel)
    return math.ceil(FILE_BYTES_FIXED + of_weights + len(kernels) * FILE_BYTES_PER_LAYER)


def _scaled(size: int, format_: str, precision: str) -> int:
    """Bytes of a module's arena at a precision: it was counted in numbers of four bytes."""
    if format_ != "torch":
        return size
    return math.ceil(size / 4 * BYTES.get(precision, BYTES["fp32"])[1])
