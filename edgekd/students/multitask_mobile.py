"""A MobileNet backbone with a light decoder and a head an output: what a camera on a small device is asked.

On the way down inverted residuals (Sandler et al. 2018, arXiv:1801.04381) halve four times; on the way up each level is
enlarged and added to the finer one beside it (Lin et al. 2017, "Feature Pyramid Networks", arXiv:1612.03144), no finer
than the finest output asks for. An answer for the whole image comes from the deepest level, every place of which has
its own weight (the global depthwise convolution of Chen et al. 2018, "MobileFaceNets", arXiv:1804.07573).

Each operator has an int8 kernel in every runtime: 1x1 and depthwise convolutions, additions, ReLU6, nearest neighbours.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.errors import Disagreement
from edgekd.nets import Net, centred, planes
from edgekd.pyramids import finest, halved, joined, resized
from edgekd.repeats import repeated
from edgekd.specs import Output, Subject
from edgekd.students import StudentFamily
from edgekd.students._blocks import DEPTHS, WIDTHS, convolution, divisible, initialise, inverted_residual, separable

_CHANNELS = (16, 24, 40, 64)
"""Of the levels at width 1; the first is at half the image's resolution."""
_BLOCKS = (2, 2, 3)
"""Of the levels below the first, which is the stem alone, at depth 1."""
_HIDDEN = 64


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space."""

    width: Annotated[float, msgspec.Meta(ge=0.1, le=4)] = 1.0
    """Multiplies the channels."""
    depth: Annotated[float, msgspec.Meta(ge=0.5, le=4)] = 1.0
    """Multiplies the blocks of a level."""
    expansion: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4
    """Channels of a block's depthwise convolution, as a multiple of the block's."""
    head: Annotated[int, msgspec.Meta(ge=8, le=1024)] | None = None
    """Channels that answers for each place are made of; None takes as many as their level has."""


class _MultitaskMobile:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, height, width = planes(subject)
        net = MultitaskMobileNet(options, channels, (height, width), subject.outputs)
        return Net(net, centred(subject), subject.classes)

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        return {"width": WIDTHS, "depth": DEPTHS, "expansion": (2, 3, 4, 5, 6)}


class MultitaskMobileNet(nn.Module):
    """Images (batch, channels, height, width) to a tensor an output, in their order; to the tensor where it is one."""

    def __init__(self, options: Options, channels: int, size: tuple[int, int], outputs: tuple[Output, ...]) -> None:
        super().__init__()
        widths = [divisible(width * options.width) for width in _CHANNELS]
        sizes = [halved(size, level + 1) for level in range(len(widths))]
        self.stem = convolution(channels, widths[0], 3, stride=2)
        self.down = nn.ModuleList(
            _down(fine, coarse, max(1, round(blocks * options.depth)), options.expansion, dense=level == 0)
            for level, (fine, coarse, blocks) in enumerate(zip(widths, widths[1:], _BLOCKS, strict=False))
        )
        self.finest = finest(sizes, [output.shape for output in outputs])
        ups = range(self.finest, len(sizes) - 1)
        self.lateral = nn.ModuleList(convolution(widths[level + 1], widths[level], 1, activation=None) for level in ups)
        self.up = nn.ModuleList(separable(widths[level], widths[level]) for level in ups)
        self.dense = [len(output.shape) == 3 for output in outputs]
        self.heads = nn.ModuleList(
            _dense(widths[self.finest], options.head, output.shape) if dense else _whole(widths[-1], sizes[-1], output)
            for output, dense in zip(outputs, self.dense, strict=True)
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = joined(levels, self.lateral, self.up)
        answers = tuple(
            head(features if dense else levels[-1]) for head, dense in zip(self.heads, self.dense, strict=True)
        )
        return answers if len(answers) > 1 else answers[0]


class _Dense(nn.Module):
    """Answers for each place of a grid."""

    def __init__(self, inputs: int, hidden: int | None, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = shape[1:]
        hidden = hidden or inputs
        self.layers = nn.Sequential(separable(inputs, hidden), nn.Conv2d(hidden, shape[0], 1))

    def forward(self, features: Tensor) -> Tensor:
        return resized(self.layers(features), self.size)


class _Whole(nn.Module):
    """Answers for the whole image."""

    def __init__(self, inputs: int, size: tuple[int, int], output: Output) -> None:
        super().__init__()
        if len(output.shape) != 1:
            raise Disagreement(f"multitask_mobile does not answer in the shape {output.shape} of {output.name!r}")
        hidden = 2 * inputs
        self.layers = nn.Sequential(
            convolution(inputs, hidden, 1),
            nn.Conv2d(hidden, hidden, size, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Flatten(),
            nn.Linear(hidden, _HIDDEN),
            nn.ReLU6(),
            nn.Linear(_HIDDEN, *output.shape),
        )

    def forward(self, features: Tensor) -> Tensor:
        answers: Tensor = self.layers(features)
        return answers


_dense, _whole = repeated(_Dense), repeated(_Whole)


@repeated
def _down(inputs: int, outputs: int, blocks: int, expansion: int, dense: bool) -> nn.Sequential:
    """Halves once. The largest planes are halved by a dense convolution, as nets for accelerators do (Gupta and Akin
    2020, arXiv:2003.02838): multiplying their channels first would take a third more memory."""
    first = (
        convolution(inputs, outputs, 3, stride=2)
        if dense
        else inverted_residual(inputs, outputs, 2, expansion=expansion)
    )
    return nn.Sequential(
        first, *(inverted_residual(outputs, outputs, 1, expansion=expansion) for _ in range(blocks - 1))
    )


PLUGIN: Final[StudentFamily] = _MultitaskMobile()
