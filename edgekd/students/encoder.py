"""Small encoders of text (Turc et al. 2019, "Well-Read Students Learn Better", arXiv:1908.08962).

With the teacher's width, heads and feed-forward net its layers start the student's (Sanh et al. 2019, "DistilBERT",
arXiv:1910.01108), whose names are the same.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from edgekd.bert import Size, TokenNet
from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.students import StudentFamily
from edgekd.students._attention import divided

Width = Annotated[int, msgspec.Meta(ge=8, le=1024)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space."""

    width: Width = 192
    """Of the hidden states."""
    layers: Annotated[int, msgspec.Meta(ge=1, le=12)] = 2
    heads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 4
    """Of the attention; they divide the width."""
    feed_forward: Annotated[float, msgspec.Meta(ge=0.25, le=8)] = 4.0
    """Width of the feed-forward net, as a multiple of the hidden states'."""
    embedding: Width | None = None
    """Width of the table of words, which most parameters of a small net are in; None takes the hidden states'."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class _Encoder:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        divided(options.width, options.heads)
        size = Size(
            width=options.width,
            heads=options.heads,
            feed_forward=round(options.width * options.feed_forward),
            layers=options.layers,
            embedding=options.embedding or options.width,
        )
        return Net(TokenNet(size, subject, options.dropout), classes=subject.classes)

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        # What four heads of an even size, the default, divide.
        return {
            "width": tuple(range(32, 513, 32)),
            "layers": tuple(range(1, 9)),
            "feed_forward": (0.5, 1.0, 2.0, 3.0, 4.0),
            "heads": (4,),
        }


PLUGIN: Final[StudentFamily] = _Encoder()
