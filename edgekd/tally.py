"""Count what an artifact executes where times would tell nothing."""

from edgekd.measure import Job, count
from edgekd.runs import Work
from edgekd.specs import Artifact, Counted

VERSION = 1
"""Apart from `measure`'s: no timing is taken again where counting changes."""


def tally(work: Work, artifact: Artifact, engine: str, device: str, threads: int) -> Counted:
    """Instructions, cache misses and memory of an artifact; its latency, with these threads, where it is modelled.

    Raises:
        MeasureError: the engine cannot load or execute the artifact there.
        PluginUnavailable: the device is not prepared for the engine.
    """
    job = Job(artifact.export, work.path(artifact.model), engine, device, "rapid", threads)
    return count(job, lambda _: work.path(artifact.samples), work.out)
