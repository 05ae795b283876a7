"""What losses on layers share: shapes that have to fit, sizes that are made to, tokens that count, directions."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.losses import Features, Pair

_ZERO: Final = 1e-15
"""What is shorter has no direction: its gradient would be as large as it is small."""

_POOLS: Final = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
"""By how many axes of positions there are."""


class Summed(nn.Module):
    """A loss of each pair, added up."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Scalar."""
        return torch.stack([part(given(one)) for part, one in zip(self.parts, features, strict=True)]).sum()


def given(features: Features) -> Features:
    """With a teacher that gets no gradient."""
    return msgspec.structs.replace(features, teacher=features.teacher.detach())


def require(pairs: Sequence[Pair], fits: Callable[[Pair], bool], wanted: str, hint: str) -> None:
    """Raise ConfigError, with the first pair that does not fit."""
    for number, pair in enumerate(pairs, start=1):
        if not fits(pair):
            raise ConfigError(
                f"layers of pair {number} answer {pair.student} in the student and {pair.teacher} in the teacher, "
                f"not {wanted}",
                hint=hint,
            )


def are_maps(pair: Pair) -> bool:
    """Whether both are (channels, *positions), with as many axes."""
    return not pair.by_token and len(pair.student) == len(pair.teacher) and len(pair.student) - 1 in _POOLS


def are_states(pair: Pair) -> bool:
    """Whether both are (*positions, width), with the same positions."""
    return len(pair.student) > 0 and len(pair.teacher) > 0 and pair.student[:-1] == pair.teacher[:-1]


def projection(student: int, teacher: int) -> nn.Linear:
    """Learned, from the student's width to the teacher's."""
    linear = nn.Linear(student, teacher)
    if student == teacher:  # a student that starts from the teacher's layers need not unlearn a random turn
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear


def project_channels(linear: nn.Module, maps: Tensor) -> Tensor:
    """A 1x1 convolution of maps (batch, channels, *positions)."""
    projected: Tensor = linear(maps.movedim(1, -1))
    return projected.movedim(-1, 1)


def pool_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (batch, channels, *positions), each axis averaged down to the shorter of the two."""
    size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    return _pool(student, size), _pool(teacher, size)


def _pool(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return maps if maps.shape[2:] == size else _POOLS[len(size)](maps, size)  # type: ignore[arg-type]


def weights_of(states: Tensor, mask: Tensor | None) -> Tensor:
    """1 where states (batch, *positions, width) count, 0 at padding; of shape (batch, *positions)."""
    if mask is not None and mask.shape == states.shape[:-1]:
        return mask.to(states.dtype)
    return torch.ones(states.shape[:-1], dtype=states.dtype, device=states.device)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Scalar; 0 where nothing weighs anything."""
    return (values * weights).sum() / weights.sum().clamp_min(1)


def vectors_of(states: Tensor, mask: Tensor | None) -> Tensor:
    """Each example as one vector, (batch, numbers), where padding is 0."""
    if states.dim() > 2:
        states = states * weights_of(states, mask)[..., None]
    return states.reshape(len(states), -1)


def scaled(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Over the largest magnitude along axes, so that squares stay within floats; for what no scale matters to."""
    largest = values.detach().abs().amax(dim=dim, keepdim=True)
    return values / largest.masked_fill(largest < _ZERO, 1)


def directions(values: Tensor, dim: int) -> Tensor:
    """Of length 1 along an axis; 0 stays 0."""
    near = scaled(values, dim)
    length: Tensor = torch.linalg.vector_norm(near, dim=dim, keepdim=True)
    return near / length.masked_fill(length < _ZERO, 1)
