"""Seeded views of training examples: view k of example i is the same picture for every net, run and process.

The random numbers of a view belong to the example, not to the batch, and its coordinates are relative, so a teacher
at one resolution and a student at another look at the same picture.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.rows import Rows
from edgekd.specs import Preprocessing, Views

KEPT_BYTES: Final = 2**30
"""Room for all views of a data set as a net sees them."""
SHRUNK_BYTES: Final = 2**28
"""Room for its examples at the net's size, which every view of them begins with."""


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
        self._shrunk: _Kept | None = None
        self._views_kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._inputs)

    def keep(self, views: int) -> None:
        """Make each example of the first views once, where there is room for all: they will be looked at again."""
        if self._preprocessing is None or self._views is None or self._views_kept:
            return
        count, channels = self._inputs.shape[:2]
        shape = (count, channels, *self._preprocessing.size)
        if views * _bytes(shape) <= KEPT_BYTES:
            self._views_kept = [_Kept(shape) for _ in range(views)]

    def inputs(self, indices: NDArray[np.int64], view: int | None = None) -> tuple[Tensor, ...]:
        """All that a net takes of the examples: what `batch` returns, and the further inputs."""
        return (self.batch(indices, view), *(_as_it_is(one[indices]) for one in self._beside))

    def batch(self, indices: NDArray[np.int64], view: int | None = None) -> Tensor:
        """The first input as float32 of shape (len(indices), *input shape), tokens as int64; `view` None shows the
        examples as they are."""
        if self._preprocessing is None:
            return self._raw(indices)
        if view is None or self._views is None:
            return self._normalised(_resized(self._raw(indices), self._preprocessing.size))
        if view < len(self._views_kept):
            return self._views_kept[view].take(indices, lambda missing: self._seen(missing, view))
        return self._seen(indices, view)

    def _raw(self, indices: NDArray[np.int64]) -> Tensor:
        return _as_it_is(self._inputs[indices])

    def _seen(self, indices: NDArray[np.int64], view: int) -> Tensor:
        assert self._views is not None
        chosen = torch.from_numpy(indices)
        numbers, matrices = (one[chosen] for one in _chance(len(self), self._seed, view, self._views))
        return self._normalised(self._warped(self._begun(indices), numbers, matrices, self._views))

    def _begun(self, indices: NDArray[np.int64]) -> Tensor:
        """Examples that are no larger than what the net sees; made once, where there is room for all of them."""
        assert self._preprocessing is not None
        count, channels, *given = self._inputs.shape
        height, width = map(min, self._preprocessing.size, given)
        shape = (count, channels, height, width)

        def made(some: NDArray[np.int64]) -> Tensor:
            return _resized(self._raw(some), (height, width))

        if [height, width] == given or self._views_kept or _bytes(shape) > SHRUNK_BYTES:
            return made(indices)
        self._shrunk = self._shrunk or _Kept(shape)
        return self._shrunk.take(indices, made)

    def _normalised(self, pixels: Tensor) -> Tensor:
        assert self._preprocessing is not None
        mean = torch.tensor(self._preprocessing.mean).view(1, -1, 1, 1)
        std = torch.tensor(self._preprocessing.std).view(1, -1, 1, 1)
        return (pixels - mean) / std

    def _warped(self, shrunk: Tensor, numbers: Tensor, matrices: Tensor, views: Views) -> Tensor:
        assert self._preprocessing is not None
        height, width = self._preprocessing.size
        grid = _grid(matrices, height, width)
        if views.elastic:
            field = numbers[:, 8:40].view(-1, 2, 4, 4) * views.elastic
            field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
            grid = grid + field.permute(0, 2, 3, 1)
        warped = F.grid_sample(shrunk, grid, padding_mode="border", align_corners=False)
        if views.brightness:
            gain = 1 + numbers[:, 6].view(-1, 1, 1, 1) * views.brightness
            warped = (warped * gain + numbers[:, 7].view(-1, 1, 1, 1) * 255 * views.brightness).clamp(0, 255)
        return warped


class _Kept:
    """Pictures of shape (examples, ...) that are made when they are first asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._pictures = torch.empty(shape, memory_format=torch.channels_last)  # as nets take them
        self._known = np.zeros(len(self._pictures), np.bool_)

    def take(self, indices: NDArray[np.int64], make: Callable[[NDArray[np.int64]], Tensor]) -> Tensor:
        missing = indices[~self._known[indices]]
        if len(missing):
            self._pictures[torch.from_numpy(missing)] = make(missing)
            self._known[missing] = True
        return self._pictures[torch.from_numpy(indices)]


def _bytes(shape: tuple[int, ...]) -> int:
    """Of float32."""
    return 4 * math.prod(shape)


def _as_it_is(rows: NDArray[Any]) -> Tensor:
    raw = torch.from_numpy(np.ascontiguousarray(rows))
    return raw.long() if raw.dtype == torch.int32 else raw.float()


@lru_cache(maxsize=1)  # of many examples they are large
def _chance(examples: int, seed: int, view: int, views: Views) -> tuple[Tensor, Tensor]:
    """All the chance in one view: uniform numbers in -1..1 of shape (examples, 40), and the affine maps by them.

    The maps are of all examples at once, as the last bits of a sine depend on how many are computed together.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + view * 7_919 + 17) % 2**63)
    numbers = torch.rand(examples, 40, generator=generator).mul_(2).sub_(1)
    return numbers, _matrices(numbers, views)


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


def _grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel's centre comes from, of shape (batch, height, width, 2), in -1..1 across the picture."""
    y, x = ((torch.arange(size) * 2 + 1) / size - 1 for size in (height, width))
    of_x, of_y, shift = matrices[:, None, None].unbind(-1)
    return of_x * x.view(1, 1, -1, 1) + (of_y * y.view(1, -1, 1, 1) + shift)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
