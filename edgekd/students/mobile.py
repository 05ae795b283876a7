"""MobileNet-style students: inverted residuals (Sandler et al. 2018, arXiv:1801.04381).

Every operator has a quantized kernel in each runtime: 1x1 and depthwise 3x3 convolutions, batch norms that fold away,
ReLU6, additions and one average. Hard-swish and squeeze-and-excitation (Howard et al. 2019, arXiv:1905.02244) are
there to be asked for: they cost more than they bring where a runtime has no int8 kernel for them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.errors import Disagreement
from edgekd.nets import Net, centred, planes, values
from edgekd.specs import Subject
from edgekd.students import StudentFamily
from edgekd.students._blocks import (
    DEPTHS,
    WIDTHS,
    Activation,
    convolution,
    divisible,
    initialise,
    inverted_residual,
    linear,
)

_CHANNELS = (16, 24, 40, 64, 96)
"""Of the stem and the four stages at width 1."""
_BLOCKS = (1, 2, 2, 1)
"""Of the four stages at depth 1."""
_HEAD = 192


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space."""

    width: Annotated[float, msgspec.Meta(ge=0.1, le=4)] = 1.0
    """Multiplies the channels."""
    depth: Annotated[float, msgspec.Meta(ge=0.5, le=4)] = 1.0
    """Multiplies the blocks of a stage."""
    resolution: Annotated[int, msgspec.Meta(ge=8, le=512)] | None = None
    """Height and width in pixels; None takes that of the data."""
    expansion: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4
    """Channels of the depthwise convolution, as a multiple of the block's."""
    activation: Activation = "relu6"
    squeeze_excite: bool = False
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class _Mobile:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, height, width = planes(subject)
        if options.resolution and not subject.images:
            raise Disagreement("the option resolution resizes images, and the data are float32", hint="leave it out")
        size = (options.resolution, options.resolution) if options.resolution else (height, width)
        net = MobileNet(options, channels, values(subject), halvings(min(size)))
        return Net(net, centred(subject, size), subject.classes)

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        _, height, width = planes(subject)
        smaller = sorted({max(16, round(min(height, width) * share / 4) * 4) for share in (0.5, 0.625, 0.75, 0.875, 1)})
        return {
            "width": WIDTHS,
            "depth": DEPTHS,
            "expansion": (2, 3, 4, 5, 6),
            **({"resolution": smaller} if subject.images else {}),
        }


def halvings(size: int) -> int:
    """How often an image is halved on its way to the head: to about 4 pixels, at least once and at most 5 times."""
    return min(5, max(1, round(math.log2(size / 4))))


class MobileNet(nn.Module):
    """Images (batch, channels, height, width) to logits (batch, classes)."""

    def __init__(self, options: Options, channels: int, classes: int, halvings: int) -> None:
        super().__init__()
        widths = [divisible(channel * options.width) for channel in _CHANNELS]
        self.stem = convolution(channels, widths[0], 3, stride=2, activation=options.activation)
        blocks: list[nn.Module] = []
        for stage, repeats in enumerate(_BLOCKS):
            # The stem halves once; the other halvings come as early as leaves one stage of detail before them.
            stride = 2 if (stage < 4 if halvings == 5 else 1 <= stage < halvings) else 1
            for repeat in range(max(1, round(repeats * options.depth))):
                first = repeat == 0
                blocks.append(
                    inverted_residual(
                        widths[stage] if first else widths[stage + 1],
                        widths[stage + 1],
                        stride if first else 1,
                        expansion=options.expansion,
                        activation=options.activation,
                        squeeze_excite=options.squeeze_excite,
                    )
                )
        self.blocks = nn.Sequential(*blocks)
        features = divisible(_HEAD * max(1.0, options.width))
        self.head = convolution(widths[-1], features, 1, activation=options.activation)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = linear(features, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(images))).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


PLUGIN: Final[StudentFamily] = _Mobile()
