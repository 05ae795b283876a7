"""The best latency profile that a target has; where it was never measured, the spec sheet's roofline.

Where the target names a profile of the user's own, that is the one.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from edgekd.cost import CostModel
from edgekd.cost._estimate import EXECUTES, choose
from edgekd.cost.spec_sheet import PLUGIN as SPEC_SHEET_MODEL
from edgekd.fitted import SPEC_SHEET
from edgekd.lowering._torch import kernels_of
from edgekd.specs import Cost, Interval, Target

if TYPE_CHECKING:
    from edgekd.nets import Anatomy


class _Profiles:
    def cores(self) -> tuple[str, ...]:
        return SPEC_SHEET_MODEL.cores()

    def estimate(self, anatomy: "Anatomy", target: Target, precision: str) -> Cost:
        known = SPEC_SHEET_MODEL.estimate(anatomy, target, precision)
        predictor = choose(target, _engine(target, precision), precision, target.threads)
        if predictor is None or predictor.tier == SPEC_SHEET:
            return known
        made = predictor.predict(predictor.family.totals([kernels_of(anatomy)]))
        latency = Interval(value=float(made.ms[0]), low=float(made.low[0]), high=float(made.high[0]))
        return msgspec.structs.replace(known, latency_ms=latency, tier=predictor.tier)


def _engine(target: Target, precision: str) -> str:
    """The target's first engine for its first export of a precision."""
    formats = [export.partition("-")[0] for export in target.exports if export.endswith(f"-{precision}")]
    able = EXECUTES.get(formats[0] if formats else "", ())
    return next((name for name in target.engines if name in able), target.engines[0])


PLUGIN: Final[CostModel] = _Profiles()
