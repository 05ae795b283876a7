"""Whisper base, which writes down what is said (Radford et al. 2022, arXiv:2212.04356; MIT), cut down to the length and
the vocabulary of the data: see edgekd/whisper_base.py.
"""

from typing import Any, Final

import msgspec

from edgekd.errors import Disagreement
from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.teachers import TeacherSource
from edgekd.whisper import BANDS, Size, transcriber
from edgekd.whisper_base import LAYERS, PLACES, weights

SIZE: Final = Size(width=512, heads=8, feed_forward=2048, encoder_layers=LAYERS, decoder_layers=LAYERS)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything is in the file."""


class _Whisper:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        net = transcriber(SIZE, subject)
        (bands, frames), (length,) = subject.shape, subject.beside[0].shape
        if bands != BANDS or frames > 2 * PLACES[0] or length > PLACES[1]:
            raise Disagreement(
                f"Whisper hears {BANDS} bands of up to {2 * PLACES[0]} frames and writes up to {PLACES[1]} tokens, "
                f"the data have {bands}, {frames} and {length}",
                hint="cut the data to that",
            )
        net.load_state_dict(weights(subject))
        return Net(net, classes=subject.classes)


PLUGIN: Final[TeacherSource] = _Whisper()
