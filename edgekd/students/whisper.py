"""Whispers with fewer layers in the decoder, after Distil-Whisper (Gandhi et al. 2023, arXiv:2311.00430).

The encoder is the teacher's, and stays as it is: `initialise` copies `front`, and of the decoder, which is `rest`,
tables, norm and some of the layers.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.students import StudentFamily
from edgekd.students._attention import divided
from edgekd.whisper import Size, executed_by_steps, transcriber

Layers = Annotated[int, msgspec.Meta(ge=1, le=32)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space; all but `decoder_layers` are Whisper base's."""

    decoder_layers: Layers = 2
    encoder_layers: Layers = 6
    width: Annotated[int, msgspec.Meta(ge=8, le=1280)] = 512
    """Of the hidden states."""
    heads: Annotated[int, msgspec.Meta(ge=1, le=20)] = 8
    """Of the attention; they divide the width."""
    feed_forward: Annotated[int, msgspec.Meta(ge=8, le=5120)] = 2048
    """Width of the feed-forward nets."""


class _Whisper:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        divided(options.width, options.heads)
        size = Size(
            width=options.width,
            heads=options.heads,
            feed_forward=options.feed_forward,
            encoder_layers=options.encoder_layers,
            decoder_layers=options.decoder_layers,
        )
        return executed_by_steps(size, transcriber(size, subject), subject)

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        return {"decoder_layers": (1, 2, 3, 4, 5, 6)}  # the encoder is the teacher's


PLUGIN: Final[StudentFamily] = _Whisper()
