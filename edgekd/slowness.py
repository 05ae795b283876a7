"""Say which operators make a quantized artifact slower than its float twin."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from edgekd import formats
from edgekd.errors import DeviceUnreachable, MeasureError
from edgekd.profile import Profile, profile, slower_operators
from edgekd.runs import Work
from edgekd.specs import Artifact, Measurement, Slowness

VERSION = 1

LEAST_RATIO: Final = 1.05
"""Of the medians; less is chance."""


class Timed(NamedTuple):
    """An artifact, and what it takes."""

    artifact: Artifact
    measurement: Measurement


def slow_pairs(artifacts: Sequence[Artifact], measurements: Sequence[Measurement]) -> Iterator[tuple[Timed, Timed]]:
    """Each quantized artifact that took longer than its float twin on the same engine and device, with the twin."""
    by_export = {one.export: one for one in artifacts}
    timed = [Timed(by_export[one.artifact], one) for one in measurements if one.artifact in by_export]
    places = {(one.artifact.export, one.measurement.engine, one.measurement.device): one for one in timed}
    for one in timed:
        export = f"{one.artifact.format}-fp32"
        twin = places.get((export, one.measurement.engine, one.measurement.device))
        if twin and twin != one and _median(one) > LEAST_RATIO * _median(twin):
            yield one, twin


def explain(work: Work, slow: Timed, twin: Timed) -> Slowness:
    """What takes longer in the slower of the two, where both are profiled again on the device that they were timed on.

    Where they cannot be, the answer says why.

    Raises:
        DeviceUnreachable: the device does not answer now; it may another time.
    """
    profiles, note = [], ""
    try:
        profiles = [_profiled(work, one) for one in (slow, twin)]
    except DeviceUnreachable:
        raise
    except MeasureError as error:
        note = str(error)
    return Slowness(
        artifact=slow.artifact.export,
        twin=twin.artifact.export,
        engine=slow.measurement.engine,
        device=slow.measurement.device,
        provenance=slow.measurement.provenance,
        quantized_ms=_median(slow),
        float_ms=_median(twin),
        how=profiles[0].how if profiles else "",
        operators=slower_operators(*profiles) if profiles else (),
        note=note,
    )


def _median(one: Timed) -> float:
    return one.measurement.latency_ms.p50


def _profiled(work: Work, one: Timed) -> Profile:
    path, found = work.path(one.artifact.model), one.measurement
    inputs = work.path(one.artifact.samples)
    return profile(formats.read(path), path, found.engine, inputs, work.out, device=found.device, threads=found.threads)
