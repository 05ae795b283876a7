"""A net of a student's family as its teacher: a larger one, or one as large, which is born again.

Born-again networks (Furlanello et al. 2018, arXiv:1805.04770) are students of their teacher's own architecture, which
end up better than it. The next generation starts from `weights`: what the run of the last one left.
"""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from edgekd import students
from edgekd.nets import Net, load
from edgekd.plugins import find
from edgekd.plugins import options as decoded
from edgekd.specs import Subject
from edgekd.teachers import TeacherSource


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which net, and what it has learned."""

    family: Annotated[str, msgspec.Meta(min_length=1)] = "mobile"
    """Of students."""
    options: dict[str, Any] = {}
    """Of the family."""
    weights: str = ""
    """A safetensors file of the same net, of a student or a teacher; "" for one that knows nothing yet."""


class _Family:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        family = find(students, options.family)
        table = decoded(family.Options, options.options, f"options of the family {options.family}")
        net: Net = family.build(table, subject)
        if options.weights:
            load(net.module, Path(options.weights))
        return net


PLUGIN: Final[TeacherSource] = _Family()
