"""A residual U-Net that answers all that is asked of an image: Ronneberger, Fischer and Brox 2015, arXiv:1505.04597.

One body for all outputs: residual blocks (He et al. 2016, arXiv:1512.03385) on the way down, and on the way up each
level is added to the finer one beside it. What is asked for each place is answered at the resolution asked for; what
is asked for the whole image, from the deepest level.
"""

from math import prod
from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.errors import Disagreement
from edgekd.nets import Net, centred, planes
from edgekd.pyramids import finest, halved, joined, resized
from edgekd.specs import Output, Subject
from edgekd.teachers import TeacherSource
from edgekd.teachers._blocks import ResidualBlock, convolution

_SQUEEZED = 16
"""Channels of the deepest level, place by place, that an answer for the whole image is made of."""
_HIDDEN = 128


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the net."""

    widths: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=2048)], ...], msgspec.Meta(min_length=2, max_length=6)
    ] = (32, 64, 96, 128)
    """Channels of the levels, each at half the resolution of the one before it; the first is at half the image's."""
    blocks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Of a level on the way down; on the way up it has one."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """Of what answers for the whole image."""


class _UNet:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, height, width = planes(subject)
        net = UNet(options, channels, (height, width), subject.outputs)
        return Net(net, centred(subject), subject.classes)


class UNet(nn.Module):
    """Images (batch, channels, height, width) to a tensor an output, in their order; to the tensor where it is one."""

    def __init__(self, options: Options, channels: int, size: tuple[int, int], outputs: tuple[Output, ...]) -> None:
        super().__init__()
        widths = options.widths
        sizes = [halved(size, level + 1) for level in range(len(widths))]
        self.stem = nn.Sequential(*convolution(channels, widths[0], stride=2), nn.ReLU())
        self.down = nn.ModuleList(
            nn.Sequential(
                *([nn.AvgPool2d(2, ceil_mode=True)] if level else []),
                ResidualBlock(widths[max(0, level - 1)], width),
                *(ResidualBlock(width, width) for _ in range(options.blocks - 1)),
            )
            for level, width in enumerate(widths)
        )
        top = finest(sizes, [output.shape for output in outputs])
        ups = range(top, len(widths) - 1)
        self.lateral = nn.ModuleList(
            nn.Sequential(*convolution(widths[level + 1], widths[level], kernel=1)) for level in ups
        )
        self.up = nn.ModuleList(ResidualBlock(widths[level], widths[level]) for level in ups)
        self.heads = nn.ModuleList(
            _Dense(widths[top], output)
            if len(output.shape) == 3
            else _Whole(widths[-1], sizes[-1], output, options.dropout)
            for output in outputs
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.stem(images)
        levels = []
        for down in self.down:
            features = down(features)
            levels.append(features)
        features = joined(levels, self.lateral, self.up)
        answers = tuple(head(features if isinstance(head, _Dense) else levels[-1]) for head in self.heads)
        return answers if len(answers) > 1 else answers[0]


class _Dense(nn.Module):
    """Answers for each place of a grid."""

    def __init__(self, inputs: int, output: Output) -> None:
        super().__init__()
        self.size = output.shape[1:]
        self.layers = nn.Sequential(*convolution(inputs, inputs), nn.ReLU(), nn.Conv2d(inputs, output.shape[0], 1))

    def forward(self, features: Tensor) -> Tensor:
        return resized(self.layers(features), self.size)


class _Whole(nn.Module):
    """Answers for the whole image, from a few channels of each place: where something is matters, too."""

    def __init__(self, inputs: int, size: tuple[int, int], output: Output, dropout: float) -> None:
        super().__init__()
        if len(output.shape) != 1:
            raise Disagreement(f"a U-Net does not answer in the shape {output.shape} of {output.name!r}")
        self.squeeze = nn.Sequential(*convolution(inputs, _SQUEEZED, kernel=1), nn.ReLU(), nn.Flatten())
        self.layers = nn.Sequential(
            nn.Linear(_SQUEEZED * prod(size), _HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(_HIDDEN, *output.shape),
        )

    def forward(self, features: Tensor) -> Tensor:
        answers: Tensor = self.layers(self.squeeze(features))
        return answers


PLUGIN: Final[TeacherSource] = _UNet()
