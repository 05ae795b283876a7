"""dlib's face recognition net (D. King 2017): 128 numbers of an aligned face, without gradients.

It was learned from some three million photos of 7,500 people; the weights are those of the package
face-recognition-models, and dlib executes them. Its faces are 150 pixels a side, aligned as dlib does it.
"""

import importlib.util
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgekd.errors import Disagreement, PluginUnavailable
from edgekd.nets import Anatomy, Layer, Net, planes, values
from edgekd.specs import Preprocessing, Subject
from edgekd.teachers import TeacherSource

SIDE: Final = 150
WIDTH: Final = 128
_STAGES: Final = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Channels, residual blocks, and whether the first of these halves the resolution."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There is one such net."""


class _DlibFaces:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        if not subject.images or planes(subject)[0] != 3:
            raise Disagreement("dlib's net takes images of three channels", hint="choose another teacher")
        if values(subject) != WIDTH:
            raise Disagreement(
                f"dlib's net answers {WIDTH} numbers, the data want {values(subject)}", hint="the task is `embedding`"
            )
        return Net(FaceNet(_weights()), Preprocessing(size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3))


class FaceNet(nn.Module):
    """Images (batch, 3, 150, 150) with pixels in 0..255 to embeddings (batch, 128), frozen."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        import dlib

        self._net = dlib.face_recognition_model_v1(str(weights))
        self.file: Tensor
        # what a run keeps of this teacher, and knows it by, is the file itself
        self.register_buffer("file", torch.from_numpy(np.fromfile(weights, np.uint8)))
        self.anatomy = anatomy()

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.detach().round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        found = self._net.compute_face_descriptor(list(pixels))
        return torch.tensor(np.array(found, np.float32))


def anatomy() -> Anatomy:
    """Of dlib's ResNet: 29 convolutions, whose first two of a halving stage do not pad."""
    side = (SIDE - 7) // 2 + 1
    layers = [_convolution(3, 32, 7, SIDE, side)]
    side, channels = (side - 3) // 2 + 1, 32
    for width, blocks, halves in _STAGES:
        for block in range(blocks):
            before = side
            side = (side - 3) // 2 + 1 if halves and not block else side
            layers += [_convolution(channels, width, 3, before, side), _convolution(width, width, 3, side, side)]
            channels = width
    layers.append(
        Layer(
            kind="linear",
            macs=channels * WIDTH,
            weights=channels * WIDTH,
            inputs=channels,
            outputs=WIDTH,
            channels=WIDTH,
        )
    )
    return Anatomy(
        layers=tuple(layers),
        outputs=((WIDTH,),),
        parameters=sum(layer.weights for layer in layers),
        macs=sum(layer.macs for layer in layers),
        arena_elements=0,
    )


def _convolution(inputs: int, outputs: int, kernel: int, before: int, after: int) -> Layer:
    weights = inputs * outputs * kernel**2
    return Layer(
        kind="conv",
        macs=weights * after**2,
        weights=weights,
        inputs=inputs * before**2,
        outputs=outputs * after**2,
        channels=outputs,
    )


def _weights() -> Path:
    """The file in its package, whose own module needs setuptools and is not imported."""
    found = importlib.util.find_spec("face_recognition_models")
    if found is None or not found.origin:
        raise PluginUnavailable("face-recognition-models is not installed", hint="pip install 'edgekd[faces]'")
    return Path(found.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"


PLUGIN: Final[TeacherSource] = _DlibFaces()
