"""A small residual net for images of 16 to 64 pixels, trained from scratch (He et al. 2016, arXiv:1512.03385).

It halves by averages, not by strides: a stride drops pixels, and a small shift of the image then changes the answer
(Zhang 2019, arXiv:1904.11486).
"""

from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.nets import Net, centred, planes, values
from edgekd.specs import Subject
from edgekd.teachers import TeacherSource
from edgekd.teachers._blocks import ResidualBlock, convolution


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
        channels, _, _ = planes(subject)
        return Net(ResidualNet(options, channels, values(subject)), centred(subject), subject.classes)


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
            *convolution(channels, options.stem),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            *convolution(options.stem, options.widths[0]),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.stages(self.stem(images)).mean((2, 3))))
        return logits


PLUGIN: Final[TeacherSource] = _Residual()
