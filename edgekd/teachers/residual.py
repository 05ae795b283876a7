"""A small residual net for images of 16 to 64 pixels, trained from scratch (He et al. 2016, arXiv:1512.03385).

It halves by averages, not by strides: a stride drops pixels, and a small shift of the image then changes the answer
(Zhang 2019, arXiv:1904.11486).
"""

from typing import Annotated, Any, Final

import msgspec
import torch
from torch import Tensor, nn

from edgekd.nets import Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.teachers import TeacherSource


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size of the net."""

    stem: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16
    """Channels at full resolution."""
    widths: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=2048)], ...], msgspec.Meta(min_length=1, max_length=6)
    ] = (
        24,
        64,
        160,
    )
    """Channels of the stages, each at half the resolution of the one before it."""
    blocks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Of a stage."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class _Residual:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        channels, height, width = planes(subject)
        middle = (127.5,) * channels
        preprocessing = Preprocessing(size=(height, width), mean=middle, std=middle) if subject.images else None
        return Net(ResidualNet(options, channels, values(subject)), preprocessing, subject.classes)


class ResidualNet(nn.Module):
    """Images (batch, channels, height, width) to logits (batch, classes)."""

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = options.widths[0]
        for stage, width in enumerate(options.widths):
            if stage:
                stages.append(nn.AvgPool2d(2, ceil_mode=True))
            for _ in range(options.blocks):
                stages.append(ResidualBlock(inputs, width))
                inputs = width
        self.stem = nn.Sequential(
            *_convolution(channels, options.stem),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            *_convolution(options.stem, options.widths[0]),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.stages(self.stem(images)).mean((2, 3))))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(inputs, outputs), nn.ReLU(), *_convolution(outputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*_convolution(inputs, outputs, kernel=1))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.layers(features) + self.shortcut(features))


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)


PLUGIN: Final[TeacherSource] = _Residual()
