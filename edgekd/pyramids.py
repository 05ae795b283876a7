"""Features of an image at several resolutions, each half of the one before it, joined from the coarsest to the finest
(Lin et al. 2017, "Feature Pyramid Networks for Object Detection", arXiv:1612.03144)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """Height and width after so many halvings, which round up.

    >>> halved((96, 45), 2)
    (24, 12)
    """
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


def finest(sizes: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, ...]]) -> int:
    """The level to come up to for answers of these shapes: the coarsest that is no coarser than any of the grids
    (channels, height, width) among them, the first where each is; the last where there is no grid.

    >>> finest([(48, 80), (24, 40), (12, 20)], [(1, 24, 40), (3,)])
    1
    """
    grids = [shape[1:] for shape in shapes if len(shape) == 3]
    finer = [
        level
        for level, size in enumerate(sizes)
        if all(size[0] >= height and size[1] >= width for height, width in grids)
    ]
    return max(finer, default=0)


def joined(levels: Sequence[Tensor], laterals: nn.ModuleList, ups: nn.ModuleList) -> Tensor:
    """Features at the resolution of the first level, with what the coarser ones know; the last where none are joined.

    `laterals[k]` brings what comes from below to the channels of level k, and `ups[k]` works on the sum.
    """
    features = levels[-1]
    for lateral, up, level in zip(reversed(laterals), reversed(ups), levels[-2::-1], strict=False):
        features = up(level + F.interpolate(lateral(features), size=level.shape[2:]))
    return features


def resized(answers: Tensor, size: tuple[int, ...]) -> Tensor:
    """Answers (batch, channels, height, width) for a grid of another size."""
    if answers.shape[2:] == size:
        return answers
    return F.interpolate(answers, size=size, mode="bilinear", align_corners=False)
