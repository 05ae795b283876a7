"""Which layers cost the accuracy, and how many of them must stay in float for the rest to be worth it.

What may be to blame is ranked by simulation, which takes a forward pass a rounding: the noise at the output when
nothing else is rounded. The worst are then measured on real artifacts, executed by the device's runtime, and layers go
back to float in the order of what that gained: one after the other, until what is held back of the training examples
shows no more loss than is allowed, or a limit of the budget is reached.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import torch
from torch import Tensor

from edgekd import cost
from edgekd.fake_quant import FakeQuantized, is_below, roundings
from edgekd.nets import anatomy, answers_of
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Budget, Cost, Interval, LayerCost, Quantization, Spec, Target, Trial, Tried
from edgekd.traces import Trace, trace
from edgekd.trials import Aim, Bench, Done, best
from edgekd.workers import call

VERSION = 1

TIMEOUT_S: Final = 7200.0
MOST_MEASURED: Final = 8
"""Suspects that are measured on artifacts of their own."""
EXAMPLES: Final = 64
"""That the simulation computes with."""
GROWTH: Final = 1.5
"""How much larger a set of layers is than the one before it, once it has a few."""
SAFETY: Final = 0.5
"""Share of the allowed drop that may show on training examples: nets lose less on what they have learned from."""


class Suspect(Spec, frozen=True, kw_only=True):
    """Layers that one rounding goes away with."""

    layers: tuple[str, ...]
    noise: float
    """Squared errors of an output when nothing else is rounded, by the sum of its squares; of all outputs together."""


class Room(Spec, frozen=True, kw_only=True):
    """What may be spent."""

    target: Target
    budget: Budget
    predicted: Cost
    """Of the plan, whose layers are all in its precision."""
    most_drop: float
    """Of the metric, on the test split."""
    least_db: float
    """Ratio of signal and noise that the precision explains."""


def mix(work: Work, aim: Aim, base: Quantization, room: Room) -> Tried:
    """The fewest layers in float, of the worst, that bring accuracy back within the budget; `base` is for the rest.

    Where no number of them does, the most accurate trial is kept.

    Raises:
        ConvertError: the net cannot be followed.
    """
    return call(_mix, work, aim, base, room, threads=1, log=work.out / "worker.log", timeout_s=TIMEOUT_S)


def _mix(work: Work, aim: Aim, base: Quantization, room: Room) -> Tried:
    bench = Bench(work, aim)
    module = bench.corrected(base)
    calibration, examples = torch.from_numpy(bench.calibration), torch.from_numpy(bench.inputs[:EXAMPLES])
    shape, tokens = calibration.shape[1:], aim.data.subject.kind == "tokens"
    whole = cost.model_of(room.target).estimate(anatomy(module, shape, tokens), room.target, "fp32")
    prices = _Prices(trace(module, [calibration]), room, whole)
    suspects = [one for one in rank(prices.followed, calibration, examples) if prices.affords(one.layers)]
    plain = bench.try_one(base)
    blame, measured = _measure(bench, base, suspects[:MOST_MEASURED], plain)
    done = [plain, *measured]
    chosen = min(filter(prices.is_enough, done), key=prices.weight, default=None)
    if chosen is None:
        order = [one.layers for one in blame] + [one.layers for one in suspects[MOST_MEASURED:]]
        done += _mixtures(bench, base, _growing(order), prices)
        chosen = done[-1] if prices.is_enough(done[-1]) else best(filter(prices.fits, done))
    tried = bench.keep(chosen, done)
    in_float = chosen.trial.quantization.in_float if chosen else ()
    return msgspec.structs.replace(tried, blame=tuple(blame), predicted=prices.predicted(in_float))


def _mixtures(bench: Bench, base: Quantization, sets: Sequence[tuple[str, ...]], prices: "_Prices") -> list[Done]:
    """Trials of larger and larger sets of layers in float, up to the first that is enough or breaks the budget."""
    done: list[Done] = []
    for index, layers in enumerate(sets):
        tell("mixing precisions", index, len(sets))
        if not prices.affords(layers):
            break
        done.append(bench.try_one(msgspec.structs.replace(base, in_float=layers)))
        if prices.is_enough(done[-1]):
            break
    tell("mixing precisions", len(sets), len(sets))
    return done


@dataclass(frozen=True)
class _Prices:
    """What layers in float cost on the device, and what may be spent."""

    followed: Trace
    room: Room
    whole: Cost
    """Of the model when all of it is in float."""

    def predicted(self, in_float: Sequence[str]) -> Cost:
        """The plan's cost, with as much of a float model's in it as the layers have of the arithmetic."""
        share, base, whole = _share(self.followed, in_float), self.room.predicted, self.whole

        def between(low: float, high: float) -> float:
            return low + share * max(0.0, high - low)

        return msgspec.structs.replace(
            base,
            latency_ms=Interval(
                value=between(base.latency_ms.value, whole.latency_ms.value),
                low=between(base.latency_ms.low, whole.latency_ms.low),
                high=between(base.latency_ms.high, whole.latency_ms.high),
            ),
            peak_memory_bytes=math.ceil(between(base.peak_memory_bytes, whole.peak_memory_bytes)),
            file_bytes=math.ceil(between(base.file_bytes, whole.file_bytes)),
        )

    def affords(self, in_float: Sequence[str]) -> bool:
        """Whether latency and memory are within the budget, as far as one can tell before."""
        cost, budget = self.predicted(in_float), self.room.budget
        return cost.latency_ms.high <= budget.latency_ms and cost.peak_memory_bytes <= budget.peak_memory_bytes

    def fits(self, done: Done) -> bool:
        """Whether a trial is within the budget."""
        small = done.artifact is not None and done.trial.file_bytes <= self.room.budget.file_bytes
        return small and self.affords(done.trial.quantization.in_float)

    def is_enough(self, done: Done) -> bool:
        """Whether a trial is within the budget, and accurate enough to be so on the test split as well."""
        close = done.trial.sqnr_db >= self.room.least_db and done.trial.metric_drop <= SAFETY * self.room.most_drop
        return close and self.fits(done)

    def weight(self, done: Done) -> tuple[float, int]:
        """How much of the arithmetic is in float, then the file's size."""
        return _share(self.followed, done.trial.quantization.in_float), done.trial.file_bytes


def rank(followed: Trace, calibration: Tensor, examples: Tensor) -> list[Suspect]:
    """What to blame, worst first, by the noise of each rounding alone; `examples` is of shape (examples, *shape).

    Roundings that no module's name stands for are left out.
    """
    with torch.no_grad():
        clean = answers_of(FakeQuantized(followed, frozenset())(examples))
        simulated = FakeQuantized(followed)
        simulated.observe(torch.split(calibration, EXAMPLES))
        noises: dict[tuple[str, ...], float] = {}
        found = [one for one in roundings(followed) if one.modules]
        for index, one in enumerate(found):
            tell("simulating integers", index, len(found))
            simulated.rounded = frozenset({one.node})
            noise = _noise(clean, answers_of(simulated.eval()(examples)))
            noises[one.modules] = noises.get(one.modules, 0.0) + noise
    tell("simulating integers", len(found), len(found))
    suspects = [Suspect(layers=layers, noise=noise) for layers, noise in noises.items()]
    return sorted(suspects, key=lambda one: (-one.noise, one.layers))


def _noise(clean: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Squared errors of each output by the sum of its squares, added up."""
    return sum(
        float((answer - expected).square().sum() / expected.square().sum().clamp_min(1e-30))
        for expected, answer in zip(clean, found, strict=True)
    )


def _measure(
    bench: Bench, base: Quantization, suspects: Sequence[Suspect], plain: Done
) -> tuple[list[LayerCost], list[Done]]:
    """What each suspect costs, worst first, and the trials that say so."""
    costs, done = [], []
    for index, suspect in enumerate(suspects):
        tell("measuring layers in float", index, len(suspects))
        done.append(bench.try_one(msgspec.structs.replace(base, in_float=suspect.layers)))
        if not done[-1].trial.failed:
            costs.append(_gain(suspect.layers, done[-1].trial, plain.trial))
    tell("measuring layers in float", len(suspects), len(suspects))
    # By the ratio of signal and noise: with several culprits, the metric recovers only when the last of them is gone.
    return sorted(costs, key=lambda one: (-one.sqnr_gain_db, -one.metric_gain)), done


def _gain(layers: tuple[str, ...], trial: Trial, plain: Trial) -> LayerCost:
    return LayerCost(
        layers=layers,
        metric_gain=trial.metric - plain.metric,
        sqnr_gain_db=trial.sqnr_db - plain.sqnr_db,
        added_bytes=trial.file_bytes - plain.file_bytes,
    )


def _growing(order: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Sets of layers, each holding the one before it: one culprit more at first, then half as many again.

    >>> _growing([("a",), ("b", "c"), ("a", "b"), ("d",)])
    [('a',), ('a', 'b', 'c'), ('a', 'b', 'c', 'd')]
    """
    sets: list[tuple[str, ...]] = []
    taken = 0
    while taken < len(order):
        taken = min(len(order), max(taken + 1, int(taken * GROWTH)))
        together = {layer for layers in order[:taken] for layer in layers}
        outermost = tuple(sorted(one for one in together if not is_below(one, [*(together - {one})])))
        if outermost not in sets:
            sets.append(outermost)
    return sets


def _share(followed: Trace, in_float: Sequence[str]) -> float:
    """Of a net's multiplications, those of the layers in float."""
    macs = dict.fromkeys(followed.layers.values(), 0)
    for name, path in followed.layers.items():
        node = followed.node(name)
        weight = node.all_input_nodes[1].meta["val"]
        macs[path] += math.prod(node.meta["val"].shape[1:]) * math.prod(weight.shape[1:])
    in_floats = sum(count for path, count in macs.items() if is_below(path, in_float))
    return in_floats / max(1, sum(macs.values()))
