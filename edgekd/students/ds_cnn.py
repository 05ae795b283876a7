"""DS-CNN: Zhang, Suda, Lai and Chandra 2017, "Hello Edge: Keyword Spotting on Microcontrollers", arXiv:1711.07128.

A convolution that takes time and frequency down at once, then depthwise-separable blocks of one width, then an average.
Every operator has an int8 kernel in TFLite Micro.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.nets import Net, centred, planes, values
from edgekd.repeats import repeated
from edgekd.specs import Subject
from edgekd.students import StudentFamily
from edgekd.students._blocks import linear


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point in the family's space; the defaults are the paper's DS-CNN-S."""

    channels: Annotated[int, msgspec.Meta(ge=4, le=512)] = 64
    blocks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 4
    kernel: tuple[Annotated[int, msgspec.Meta(ge=1, le=31)], Annotated[int, msgspec.Meta(ge=1, le=31)]] = (4, 10)
    """Of the first convolution: over frequencies and over time."""
    stride: tuple[Annotated[int, msgspec.Meta(ge=1, le=8)], Annotated[int, msgspec.Meta(ge=1, le=8)]] = (2, 2)
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2


class _DsCnn:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, _, _ = planes(subject)
        return Net(DsCnn(options, channels, values(subject)), centred(subject), subject.classes)

    def space(self, subject: Subject) -> Mapping[str, Sequence[Any]]:
        return {"channels": tuple(range(8, 513, 8)), "blocks": tuple(range(1, 13))}


class DsCnn(nn.Module):
    """Planes (batch, channels, frequencies, frames) to logits (batch, classes)."""

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        width = options.channels
        self.stem = _stem(channels, width, options.kernel, options.stride)
        self.blocks = nn.Sequential(*[_separable(width) for _ in range(options.blocks)])
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = linear(width, classes)

    def forward(self, planes: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.blocks(self.stem(planes)).mean((2, 3))))
        return logits


@repeated
def _stem(channels: int, width: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.pointwise = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.depthwise(features))
        return out


_separable = repeated(Separable)

PLUGIN: Final[StudentFamily] = _DsCnn()
