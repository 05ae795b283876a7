"""Hold numbers against limits: of several provenances the best there is decides, and no two are ever mixed."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from edgekd import devices
from edgekd.specs import (
    Artifact,
    Budget,
    Compiled,
    Cost,
    Counted,
    Failure,
    File,
    Firmware,
    Interval,
    Measurement,
    Provenance,
    Required,
    Summary,
    Target,
    Verdict,
)

Found = Measurement | Counted | Summary
F = TypeVar("F", bound=Found)

RANKS: Final[tuple[Provenance, ...]] = ("measured", "emulated", "estimated", "host")
"""Best first; times of this machine tell nothing of a device."""
ON_DEVICE: Final = RANKS[:2]
REQUIRABLE: Final = ("latency_ms", "peak_memory_bytes")
"""Limits that `--require` speaks of."""


def speaking(found: Iterable[F], target: Target, limit: str) -> list[F]:
    """What a device itself, or what imitates it, says of a limit: all of the best provenance there is."""
    able = [one for one in found if speaks(one, target, limit)]
    for provenance in ON_DEVICE:
        if best := [one for one in able if one.provenance == provenance]:
            return best
    return []


def speaks(one: Found, target: Target, limit: str) -> bool:
    """Whether something was found on a device, or on what imitates it, that a limit of the target is about."""
    if one.provenance not in ON_DEVICE:
        return False
    has = limit != "latency_ms" or not isinstance(one, Counted) or one.latency_ms is not None
    return has and (one.provenance != "emulated" or limit not in devices.unlike(one.device, target))


def best_known(
    found: Sequence[Found], target: Target, firmware: Firmware | None, cost: Cost, what: str
) -> list[Verdict]:
    """Latency and memory of an artifact against the target's budget, each by the best that is known of it.

    That is what was measured on the device, else what was emulated, else what is planned for a microcontroller, and
    else the estimate `cost`, which is for `what`.
    """
    budget = target.budget
    planned = firmware and static_memory(firmware, budget)
    return [
        latency(found, target) or _estimated_latency(firmware, cost, what, budget),
        memory(found, target) or planned or _estimated_memory(target, cost, what),
    ]


def _estimated_latency(firmware: Firmware | None, cost: Cost, what: str, budget: Budget) -> Verdict:
    if firmware and firmware.compiled and firmware.compiled.npu_operators:
        return compiled_latency(firmware.compiled, budget, cost.latency_ms.high)
    return upper_end(cost.latency_ms, "estimated", budget, f"for {what}; {cost.tier}; not measured on the device")


def _estimated_memory(target: Target, cost: Cost, what: str) -> Verdict:
    found, allowed = cost.peak_memory_bytes, target.budget.peak_memory_bytes
    weights = "" if target.device.flash_bytes else "weights and "
    return Verdict(
        limit="peak_memory_bytes",
        allowed=allowed,
        found=found,
        provenance="estimated",
        ok=found <= allowed,
        note=f"for {what}; {weights}planned arena, without the runtime",
    )


def latency(found: Iterable[Found], target: Target) -> Verdict | None:
    """The 90th percentile of a run that can be trusted, else the upper end of a cycle model, against the limit; of
    several devices the one that is worst. None where there is neither."""
    verdicts = [_latency(one, target.budget) for one in speaking(found, target, "latency_ms")]
    return max(verdicts, key=lambda one: (not one.ok, one.upper), default=None)


def _latency(one: Found, budget: Budget) -> Verdict:
    if not isinstance(one, Counted):
        found, what = slow_end(one)
        note = f"{what} on {one.device}"
        return Verdict(
            limit="latency_ms",
            allowed=budget.latency_ms,
            found=found,
            provenance=one.provenance,
            ok=found <= budget.latency_ms and one.valid,
            note=note if one.valid else f"{note}; not valid: {'; '.join(one.reasons)}",
        )
    assert one.latency_ms is not None
    note = one.latency_model or f"by the cycle model of {one.device}"
    return upper_end(one.latency_ms, one.provenance, budget, note)


def slow_end(one: Measurement | Summary) -> tuple[float, str]:
    """The 90th percentile in milliseconds, or the next higher statistic that there is, and its name."""
    if isinstance(one, Measurement):
        if one.once_ms is not None:
            return one.latency_ms.p90 + one.once_ms, "p90 of a step, with what is executed once before"
        return one.latency_ms.p90, "p90"
    if one.p95_ms is not None:
        return one.p95_ms, f"p95, for {one.engine} tells no p90,"
    return one.max_ms, f"the slowest of {one.inferences}, for {one.engine} tells no percentiles,"


def upper_end(told: Interval, provenance: Provenance, budget: Budget, note: str) -> Verdict:
    """A latency with an interval, of which the upper end is held against the limit."""
    return Verdict(
        limit="latency_ms",
        allowed=budget.latency_ms,
        found=told.value,
        low=told.low,
        high=told.high,
        provenance=provenance,
        ok=told.high <= budget.latency_ms,
        note=note,
    )


def memory(found: Iterable[Found], target: Target) -> Verdict | None:
    """The peak resident memory above the imported runtime against the limit, of several devices the highest; None
    where it was neither measured nor emulated."""
    allowed = target.budget.peak_memory_bytes
    highest = max(speaking(found, target, "peak_memory_bytes"), key=lambda one: one.memory.peak_rss_bytes, default=None)
    if highest is None:
        return None
    what = "all that the program takes" if isinstance(highest, Summary) else "resident above the imported runtime"
    without = "" if highest.provenance == "measured" else ", without the emulator"
    return Verdict(
        limit="peak_memory_bytes",
        allowed=allowed,
        found=highest.memory.peak_rss_bytes,
        provenance=highest.provenance,
        ok=highest.memory.peak_rss_bytes <= allowed,
        note=f"{what} on {highest.device}{without}",
    )


def compiled_latency(compiled: Compiled, budget: Budget, on_cpu_ms: float) -> Verdict:
    """What a compiler says that an inference takes; what it leaves to the processor beside is in it as its upper end.

    `on_cpu_ms` is what that processor is estimated to take for the whole net at most.
    """
    found, left = compiled.latency_ms, compiled.cpu_operators
    high = found + on_cpu_ms if left else found
    note = f"by {compiled.source}, for what it executes"
    if left:
        note += f"; left to the processor beside it: {', '.join(left)}; the upper end adds all of the net there"
    return Verdict(
        limit="latency_ms",
        allowed=budget.latency_ms,
        found=found,
        low=found if left else None,
        high=high if left else None,
        provenance=compiled.provenance,
        ok=high <= budget.latency_ms,
        note=note,
    )


def static_memory(firmware: Firmware, budget: Budget) -> Verdict | None:
    """What a microcontroller's runtime plans, and a neural processor's compiler, against the limit; None where neither
    is known."""
    planned = _planned(firmware)
    if planned is None:
        return None
    found, provenance, note = planned
    return Verdict(
        limit="peak_memory_bytes",
        allowed=budget.peak_memory_bytes,
        found=found,
        provenance=provenance,
        ok=found <= budget.peak_memory_bytes,
        note=note,
    )


def shipped_file(artifact: Artifact, firmware: Firmware | None) -> File:
    """What is put on the device: the artifact, or what a compiler made of it."""
    return firmware.compiled.model if firmware and firmware.compiled else artifact.model


def shipped_bytes(artifact: Artifact, firmware: Firmware | None) -> int:
    """Of everything that the device gets."""
    return shipped_file(artifact, firmware).size_bytes if firmware else artifact.file_bytes


def sram_bytes(firmware: Firmware) -> int | None:
    """What an artifact takes of a microcontroller's memory at most; None where that is not known."""
    planned = _planned(firmware)
    return planned[0] if planned else None


def _planned(firmware: Firmware) -> tuple[int, Provenance, str] | None:
    """Bytes, where they come from, and in words: the arena, or what a compiler places and what the runtime adds to it.

    For that stand the records of the net as it was before, which has more operators; and all of its arena, where some
    of it is left to the processor beside.
    """
    arena, compiled = firmware.arena, firmware.compiled
    if compiled is None or not compiled.npu_operators:
        note = f"arena of {arena.engine} {arena.engine_version}, planned on this machine" if arena else ""
        return (arena.arena_bytes, arena.provenance, note) if arena else None
    placed = f"tensors as {compiled.compiler} places them"
    if arena is None:
        return compiled.sram_bytes, compiled.provenance, f"{placed}, without what the runtime adds"
    if compiled.cpu_operators:
        added, what = arena.arena_bytes, f"and, for what is left to the CPU, all of the arena of {arena.engine}"
    else:
        added, what = arena.persistent_bytes, f"and the records of {arena.engine} for the whole net"
    return compiled.sram_bytes + added, compiled.provenance, f"{placed}, {what}"


def file_size(size_bytes: int, budget: Budget) -> Verdict:
    """A file against the limit."""
    return Verdict(
        limit="file_bytes",
        allowed=budget.file_bytes,
        found=size_bytes,
        provenance="host",
        ok=size_bytes <= budget.file_bytes,
        note="the very file that the device gets",
    )


def finite(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Those of limits that there are."""
    return tuple(one for one in verdicts if math.isfinite(one.allowed))


def require(verdict: Verdict, required: Required | None, how: str) -> Verdict:
    """The verdict, broken where latency or memory has less provenance than is required; `how` says what to do."""
    if required is None or verdict.limit not in REQUIRABLE:
        return verdict
    if RANKS.index(verdict.provenance) <= RANKS.index(required):
        return verdict
    note = "; ".join(filter(None, (verdict.note, f"`{required}` is required: {how}")))
    return msgspec.structs.replace(verdict, ok=False, note=note)


def mention(verdict: Verdict, failures: Sequence[Failure]) -> Verdict:
    """The verdict, with why there is none of a better provenance."""
    better = RANKS[: RANKS.index(verdict.provenance) + 1]
    said = [f"not measured on {one.device}: {one.error}" for one in failures if one.provenance in better]
    return msgspec.structs.replace(verdict, note="; ".join(filter(None, (verdict.note, *said)))) if said else verdict
