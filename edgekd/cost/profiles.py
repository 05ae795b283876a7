"""The best latency profile that a target has; where it was never measured, the spec sheet's roofline.

Where the target names a profile of the user's own, that is the one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from edgekd.cost import CostModel
from edgekd.cost._estimate import EXECUTES, choose
from edgekd.cost.spec_sheet import PLUGIN as SPEC_SHEET_MODEL
from edgekd.fitted import SPEC_SHEET
from edgekd.lowering._torch import kernels_in_common
from edgekd.specs import Cost, Interval, Target

if TYPE_CHECKING:
    from edgekd.nets import Anatomy


class _Profiles:
    def cores(self) -> tuple[str, ...]:
        return SPEC_SHEET_MODEL.cores()

    def estimate(self, anatomy: "Anatomy", target: Target, precision: str) -> Cost:
        return self.estimate_all([anatomy], target, precision)[0]

    def estimate_all(self, anatomies: Sequence["Anatomy"], target: Target, precision: str) -> list[Cost]:
        known = SPEC_SHEET_MODEL.estimate_all(anatomies, target, precision)
        predictor = choose(target, _engine(target, precision), precision, target.threads)
        if predictor is None or predictor.tier == SPEC_SHEET or not anatomies:
            return known
        made = predictor.predict(predictor.family.sums(*kernels_in_common(anatomies)))
        latencies = zip(made.ms.tolist(), made.low.tolist(), made.high.tolist(), strict=True)
        return [
            msgspec.structs.replace(cost, latency_ms=Interval(value=value, low=low, high=high), tier=predictor.tier)
            for cost, (value, low, high) in zip(known, latencies, strict=True)
        ]


def _engine(target: Target, precision: str) -> str:
    """The target's first engine for its first export of a precision."""
    formats = [export.partition("-")[0] for export in target.exports if export.endswith(f"-{precision}")]
    able = EXECUTES.get(formats[0] if formats else "", ())
    return next((name for name in target.engines if name in able), target.engines[0])


PLUGIN: Final[CostModel] = _Profiles()
