"""Whether the runtimes that a device has execute an artifact, and rightly."""

from pathlib import Path

from edgekd import compat, formats
from edgekd.specs import Target


def unfit(model: Path, precision: str, target: Target) -> tuple[str, ...]:
    """Why none of the target's runtimes executes a file rightly, a line each; () where one does, or none is named."""
    graph = formats.read(model)
    known = compat.runtimes_of(graph.format)
    found = [
        compat.problems(graph.operators, graph.format, precision, runtime, version)
        for runtime, version in target.runtimes.items()
        if runtime in known
    ]
    return () if not all(found) else tuple(line for lines in found for line in lines)


def newest_set(fmt: str, target: Target) -> int | None:
    """The newest operator set that all of a target's runtimes of a format read; None where nothing is known of them."""
    found = [compat.newest_set(fmt, runtime, version) for runtime, version in target.runtimes.items()]
    return min((one for one in found if one), default=None)
