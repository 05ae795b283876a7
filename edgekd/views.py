"""Seeded views of training examples: view k of example i is the same picture for every net, run and process.

The random numbers of a view belong to the example, not to the batch, and its coordinates are relative, so a teacher
at one resolution and a student at another look at the same picture.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.rows import Rows
from edgekd.specs import Preprocessing, Views


class Viewer:
    """Turns raw examples into a net's inputs.

    `inputs` has shape (examples, channels, height, width) with pixels in 0..255 where `preprocessing` is given, else
    any shape; `beside` are further inputs, which are taken as they are.
    """

    def __init__(
        self,
        inputs: NDArray[Any] | Rows,
        preprocessing: Preprocessing | None,
        views: Views | None = None,
        seed: int = 0,
        beside: Sequence[NDArray[Any] | Rows] = (),
    ) -> None:
        self._inputs = inputs
        self._beside = beside
        self._preprocessing = preprocessing
        self._views = views
        self._seed = seed

    def __len__(self) -> int:
        return len(self._inputs)

    def inputs(self, indices: NDArray[np.int64], view: int | None = None) -> tuple[Tensor, ...]:
        """All that a net takes of the examples: what `batch` returns, and the further inputs."""
        return (self.batch(indices, view), *(_as_it_is(one[indices]) for one in self._beside))

    def batch(self, indices: NDArray[np.int64], view: int | None = None) -> Tensor:
        """The first input as float32 of shape (len(indices), *input shape), tokens as int64; `view` None shows the
        examples as they are."""
        raw = _as_it_is(self._inputs[indices])
        if self._preprocessing is None:
            return raw
        if view is None or self._views is None:
            return self._normalised(_resized(raw, self._preprocessing.size))
        numbers = _numbers(len(self), self._seed, view)[torch.from_numpy(indices)]
        return self._normalised(self._warped(raw, numbers, self._views))

    def _normalised(self, pixels: Tensor) -> Tensor:
        assert self._preprocessing is not None
        mean = torch.tensor(self._preprocessing.mean).view(1, -1, 1, 1)
        std = torch.tensor(self._preprocessing.std).view(1, -1, 1, 1)
        return (pixels - mean) / std

    def _warped(self, raw: Tensor, numbers: Tensor, views: Views) -> Tensor:
        assert self._preprocessing is not None
        height, width = self._preprocessing.size
        shrunk = _resized(raw, (min(height, raw.shape[2]), min(width, raw.shape[3])))
        grid = F.affine_grid(_matrices(numbers, views), [len(raw), 1, height, width], align_corners=False)
        if views.elastic:
            field = numbers[:, 8:40].view(-1, 2, 4, 4) * views.elastic
            field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
            grid = grid + field.permute(0, 2, 3, 1)
        warped = F.grid_sample(shrunk, grid, padding_mode="border", align_corners=False)
        if views.brightness:
            gain = 1 + numbers[:, 6].view(-1, 1, 1, 1) * views.brightness
            warped = (warped * gain + numbers[:, 7].view(-1, 1, 1, 1) * 255 * views.brightness).clamp(0, 255)
        return warped


def _as_it_is(rows: NDArray[Any]) -> Tensor:
    raw = torch.from_numpy(np.ascontiguousarray(rows))
    return raw.long() if raw.dtype == torch.int32 else raw.float()


@lru_cache(maxsize=1)  # of many examples they are large
def _numbers(examples: int, seed: int, view: int) -> Tensor:
    """Uniform numbers in -1..1 of shape (examples, 40): all the chance in one view."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + view * 7_919 + 17) % 2**63)
    return torch.rand(examples, 40, generator=generator).mul_(2).sub_(1)


def _matrices(numbers: Tensor, views: Views) -> Tensor:
    """Affine maps of shape (batch, 2, 3) from output to input coordinates."""
    angle = numbers[:, 0] * math.radians(views.rotate_degrees)
    scale = 1 + numbers[:, 1] * views.scale
    shear = numbers[:, 2] * views.shear
    mirror = torch.where(numbers[:, 5] < 0, -1.0, 1.0) if views.flip else torch.ones(len(numbers))
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    first = torch.stack([cos * mirror, shear - sin, numbers[:, 3] * views.shift * 2], 1)
    second = torch.stack([sin * mirror, cos, numbers[:, 4] * views.shift * 2], 1)
    return torch.stack([first, second], 1)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
