"""Small decoders of text, which go on with what they are given; a device executes them token by token.

With the teacher's width, heads, groups, feed-forward net and base its layers start the student's (Sanh et al. 2019,
"DistilBERT", arXiv:1910.01108), whose names are the same.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from edgekd.errors import ConfigError
from edgekd.llama import Size, WritingNet, WritingStep
from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.students import StudentFamily


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space."""

    width: Annotated[int, msgspec.Meta(ge=8, le=2048)] = 192
    """Of the hidden states."""
    layers: Annotated[int, msgspec.Meta(ge=1, le=48)] = 2
    heads: Annotated[int, msgspec.Meta(ge=1, le=32)] = 3
    """Of the attention; they divide the width into even parts."""
    groups: Annotated[int, msgspec.Meta(ge=1, le=32)] = 1
    """Of keys and values, which the cache is made of; they divide the heads."""
    feed_forward: Annotated[float, msgspec.Meta(ge=0.25, le=8)] = 8 / 3
    """Width of the feed-forward net, as a multiple of the hidden states'."""
    base: Annotated[float, msgspec.Meta(ge=10, le=1e7)] = 100_000.0
    """Of the turns that stand for places."""


class _Decoder:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        if options.width % (2 * options.heads):
            raise ConfigError(
                f"{options.heads} heads do not divide a width of {options.width} into even parts",
                hint="change one of them",
            )
        if options.heads % options.groups:
            raise ConfigError(f"{options.groups} groups do not divide {options.heads} heads", hint="change one of them")
        size = Size(
            width=options.width,
            heads=options.heads,
            groups=options.groups,
            feed_forward=round(options.width * options.feed_forward),
            layers=options.layers,
            base=options.base,
        )
        net = WritingNet(size, subject)
        return Net(net, classes=subject.classes, step=WritingStep(net))

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        return {
            "width": tuple(range(64, 769, 64)),
            "layers": (1, 2, 3, 4, 6, 8, 12),
            "feed_forward": (1.0, 2.0, 3.0, 4.0),
            "heads": (4,),
            "groups": (1, 2),
        }


PLUGIN: Final[StudentFamily] = _Decoder()
