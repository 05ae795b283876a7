"""Measure an artifact on a device, or count there where times would tell nothing; that it fails is an answer too."""

from edgekd import devices
from edgekd.errors import DeviceUnreachable, MeasureError
from edgekd.measure import Job, count, measure, once_of
from edgekd.runs import Run, Work
from edgekd.specs import Artifact, Counted, Failure, Measurement, Mode, Spec

VERSION = 1
"""Apart from `measure`'s: no timing on this machine is taken again where counting changes."""


class Attempt(Spec, frozen=True, kw_only=True):
    """One of the three."""

    measurement: Measurement | None = None
    counted: Counted | None = None
    failure: Failure | None = None


def attempt_there(
    run: Run, name: str, artifact: Artifact, engine: str, device: str, mode: Mode, threads: int
) -> Attempt:
    """A step of a run: timed on a device, or counted there where times would tell nothing."""
    if devices.timed(device):
        return run.step(name, time_there, artifact, engine, device, mode, threads)
    return run.step(name, count_there, artifact, engine, device, threads)


def time_there(work: Work, artifact: Artifact, engine: str, device: str, mode: Mode, threads: int) -> Attempt:
    """As `measure`, or why it failed.

    Raises:
        DeviceUnreachable: the device does not answer.
    """
    try:
        return Attempt(measurement=measure(work, artifact, engine, device, mode, threads))
    except DeviceUnreachable:
        raise
    except MeasureError as error:
        return failed(artifact, engine, device, str(error))


def count_there(work: Work, artifact: Artifact, engine: str, device: str, threads: int) -> Attempt:
    """Instructions, cache misses and memory of an artifact, and its latency with these threads where it is modelled; or
    why it failed.

    Raises:
        PluginUnavailable: the device is not prepared for the engine.
    """
    job = Job(
        artifact.export, work.path(artifact.model), engine, device, "rapid", threads, once=once_of(work, artifact)
    )
    try:
        return Attempt(counted=count(job, lambda _: work.path(artifact.samples), work.out))
    except DeviceUnreachable:
        raise
    except MeasureError as error:
        return failed(artifact, engine, device, str(error))


def failed(artifact: Artifact, engine: str, device: str, error: str, hint: str = "") -> Attempt:
    """That an artifact cannot be measured on a device; hints that name files of this machine are no part of it."""
    return Attempt(
        failure=Failure(
            artifact=artifact.export,
            engine=engine,
            error=error,
            hint=hint,
            device=device,
            provenance=devices.provenance(device),
        )
    )
