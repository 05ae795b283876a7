"""How long a core takes for what it was seen to execute: a model of its cycles, one TOML file a core.

With n_k instructions of kind k, m_l lines that cache l has not but the next one has, m lines that none has, and T
threads at a clock of f, an inference takes

    ((1 - serial) / T + serial) * (sum of cycles_k n_k + sum of miss_cycles_l m_l) / f
        + max(1 / T, shared) * memory_ns * m

benchmarks/fit/cycles.py fits the numbers on published latencies of nets that it counts itself; what a whole family of
nets that the fit had not seen was off by is the error that stands beside every latency.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from edgekd.emulation.cores import Machine
from edgekd.files import load_toml
from edgekd.specs import Count, Interval, NonNegative, Positive, Share, Spec, Text

Arithmetic = Literal["float", "integer"]
FLOAT: Final = ("fma", "vector_float", "float")
INTEGER: Final = ("dot", "widening_multiply", "vector_multiply")


class Error(Spec, frozen=True, kw_only=True):
    """How far the model was off on families of nets that it had not seen."""

    nets: Count
    """1 where it is another core's, with one net known there, for too few were published."""
    mean: NonNegative
    """Of the absolute relative error."""
    low: Positive
    """Nine of ten published latencies are between `low` and `high` times what the model says."""
    high: Positive


class CycleModel(Spec, frozen=True, kw_only=True):
    """What a core needs for what it executes (one file in edgekd/emulation/cycles/)."""

    schema: Literal[1]
    core: Text
    cycles: dict[str, NonNegative]
    """Of one instruction, by kind."""
    miss_cycles: dict[str, NonNegative] = {}
    """Of a line that a cache has not, by cache: "L1" ..."""
    memory_ns: NonNegative
    """Of a line that no cache has."""
    serial: Share
    """Of the cycles, what further threads do not shorten."""
    shared: Share
    """Of the memory's time, what is left however many threads ask."""
    errors: dict[str, Error]
    """By arithmetic and threads: "float_one", "integer_several" ..."""
    fitted_on: Text
    millions: tuple[Positive, Positive]
    """Of instructions that the smallest and the largest of these nets execute."""
    sources: dict[str, Text]


class Told(NamedTuple):
    """A latency of one inference, and what it rests on."""

    latency_ms: Interval
    model: str


@cache
def model_of(core: str) -> CycleModel | None:
    """The model of a core, if one is fitted."""
    path = Path(__file__).with_name(f"{core}.toml")
    return load_toml(CycleModel, path) if path.is_file() else None


def latency(
    machine: Machine, instructions: Mapping[str, float], misses: Mapping[str, float], threads: int = 1
) -> Told | None:
    """How long a machine takes for what was counted, in nine of ten cases; None where no model is fitted for its core.

    `instructions` are by kind, `misses` in lines by cache, nearest first. More threads than cores are no faster.
    """
    model = model_of(machine.core.name)
    if model is None or not instructions:
        return None
    threads = min(threads, machine.count)
    kind = arithmetic(instructions)
    error = model.errors.get(f"{kind}_{'one' if threads == 1 else 'several'}")
    if error is None:
        return None
    took_ms = 1e3 * seconds(model, instructions, misses, machine.clock_mhz, threads)
    whose = f"{error.nets} nets of families" if error.nets > 1 else "nets of other cores, where it knew of one net,"
    least, most = model.millions
    total = instructions.get("total", 0.0) / 1e6
    beyond = (
        "" if least <= total <= most else f"; none of the nets was as {'small' if total < least else 'large'} as this"
    )
    rests = (
        f"cycle model of {model.core}, fitted on {model.fitted_on}; for {kind} arithmetic by {threads}"
        f" thread{'s' * (threads > 1)} off by {error.mean:.0%} in the mean on {whose} that it had not seen{beyond}"
    )
    return Told(Interval(value=took_ms, low=took_ms * error.low, high=took_ms * error.high), rests)


def arithmetic(instructions: Mapping[str, float]) -> Arithmetic:
    """What a net mostly computes in; the one is known better than the other."""
    floats, integers = (sum(instructions.get(kind, 0.0) for kind in kinds) for kinds in (FLOAT, INTEGER))
    return "float" if floats >= integers else "integer"


def seconds(
    model: CycleModel, instructions: Mapping[str, float], misses: Mapping[str, float], clock_mhz: float, threads: int
) -> float:
    """What the model says."""
    cycles = sum(cost * instructions.get(kind, 0.0) for kind, cost in model.cycles.items())
    for (level, lines), further in zip(misses.items(), [*misses.values()][1:], strict=False):
        cycles += model.miss_cycles.get(level, 0.0) * (lines - further)
    nowhere = [*misses.values()][-1] if misses else 0.0
    computing = ((1 - model.serial) / threads + model.serial) * cycles / (clock_mhz * 1e6)
    return computing + max(1 / threads, model.shared) * model.memory_ns * 1e-9 * nowhere
