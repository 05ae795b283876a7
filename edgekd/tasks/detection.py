"""Boxes around things, on one grid without anchors (Tian et al. 2019, "FCOS", arXiv:1904.01355).

Labels are (boxes, 5) an example: class, centre x and y, width and height in 0..1. A row of NaN is no box; an example
whose rows are all NaN has no label. Class -1 counts neither for nor against: with a box it is a thing that nobody needs
to find, and without one it says that the example was looked at, and may be empty.

A net answers (4 * 9 + classes, height, width): for each cell the distributions of how far the left, top, right and
bottom side are away, over nine distances from half a cell behind its centre to about half the image, and a logit for
each class (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388). Boxes are made of that when the net has
answered, so that the net itself has operators of any runtime alone.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Array, Mark, Task
from edgekd.tasks._boxes import BEHIND, BINS, NEAR, corners_of, decode, examined, mean_precisions, pitch

FINEST: Final = 4
"""Pixels of the smallest cells."""
SURE: Final = 0.3
"""Least score of a box that is shown to people."""
MOST_CELLS: Final = 48
"""Along the longer side of an image; larger images have larger cells."""


class _Detection:
    metric = "map50"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        if labels.ndim != 3 or labels.shape[2] != 5 or not np.issubdtype(labels.dtype, np.floating):
            raise ConfigError(
                f"labels are {labels.dtype} of shape {labels.shape}",
                hint="boxes are float32 of (examples, boxes, 5): class, centre x and y, width and height in 0..1",
            )
        if not classes:
            raise ConfigError("boxes have no classes", hint="name one or more")
        kinds, places = labels[..., 0], labels[..., 1:]
        if (kinds != np.round(kinds))[~np.isnan(kinds)].any() or np.nanmax(kinds, initial=-1) >= len(classes):
            raise ConfigError(
                f"classes of boxes run to {np.nanmax(kinds, initial=-1):g}, the names to {len(classes) - 1}",
                hint="number the classes from 0 and name them all; -1 is what does not count, NaN no box",
            )
        boxed = places[~np.isnan(places).any(axis=-1)]
        if not (kinds >= 0).any() or not len(boxed):
            raise ConfigError("no example has a box", hint="nothing can be learned from it")
        if boxed.min() < 0 or boxed.max() > 1:
            raise ConfigError(
                f"boxes run from {boxed.min():g} to {boxed.max():g}", hint="they are shares of the image, 0 to 1"
            )
        if np.isnan(places[kinds >= 0]).any():
            raise ConfigError("a box of a class has no place", hint="give its centre, width and height")

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        if len(example) != 3:
            raise ConfigError(
                f"an example is of shape {example}", hint="boxes are in images: (channels, height, width)"
            )
        height, width = example[1:]
        cell = max(FINEST, 2 ** math.ceil(math.log2(max(height, width) / MOST_CELLS)))
        return (4 * BINS + len(classes), -(-height // cell), -(-width // cell))

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Quality focal loss of the classes, 2 GIoU loss of boxes and 1/4 distribution focal loss of their sides, as in
        the paper; the last one less the least that it can be. All are averaged over the cells that see a thing."""
        sides = outputs[:, : 4 * BINS].reshape(len(outputs), 4, BINS, *outputs.shape[2:]).movedim(2, -1)
        logits = outputs[:, 4 * BINS :]
        which, spared = _assigned(labels, *outputs.shape[2:])
        example, y, x = (which >= 0).nonzero(as_tuple=True)
        seen = labels[example, which[example, y, x]]
        truth = _sides(seen, x, y, *outputs.shape[2:])
        chosen = sides[example, :, y, x].log_softmax(dim=-1)
        step = pitch(*outputs.shape[2:])
        found = (chosen.exp() * torch.arange(BINS, device=outputs.device)).sum(dim=-1) * step - BEHIND
        shares, losses = _iou(found, truth)
        wanted = torch.zeros_like(logits)
        wanted[example, seen[:, 0].long(), y, x] = shares.detach().to(wanted.dtype)
        focal = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        focal = focal * (wanted - logits.sigmoid()).square()
        total = torch.where(spared[:, None], 0.0, focal).sum() + 2 * losses.sum()
        total = total + _distribution(chosen, (truth + BEHIND) / step).mean(dim=1).sum() / 4
        return total / max(1, len(seen))

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str] = ()) -> NDArray[np.float64]:
        """What each image's boxes are worth, for the average over any images: see `examined`."""
        kinds = outputs.shape[1] - 4 * BINS
        return np.stack([examined(boxes, label, kinds) for boxes, label in zip(decode(outputs), labels, strict=True)])

    def metrics(self, counts: NDArray[np.float64]) -> dict[str, float]:
        """map50: mean average precision where a box is right from an intersection over union of 0.5 on; map: the mean
        of that over 0.5, 0.55 ... 0.95, as COCO ranks detectors."""
        precisions = mean_precisions(counts)
        return {"map50": float(precisions[0]), "map": float(precisions.mean())}

    def marks(self, outputs: Array, labels: Array, classes: Sequence[str]) -> Iterator[tuple[list[Mark], list[Mark]]]:
        """Of each image the boxes that count, and those that are found and rather right than not."""
        for boxes, label in zip(decode(outputs), labels, strict=True):
            things = label[label[:, 0] >= 0]
            truth = [
                Mark(classes[int(kind)], tuple(corners)) for kind, corners in _listed(things[:, 0], corners_of(things))
            ]
            found = [
                Mark(classes[kind], tuple(corners), score)
                for (kind, corners), score in zip(
                    _listed(boxes.kinds, boxes.corners), boxes.scores.tolist(), strict=True
                )
                if score >= SURE
            ]
            yield truth, found


def _listed(kinds: Array, corners: Array) -> list[tuple[int, list[float]]]:
    return list(zip(kinds.tolist(), corners.tolist(), strict=True))


def _assigned(labels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which box each cell learns, -1 for none, and which cells learn nothing of classes; both (batch, height, width).

    A cell learns the smallest box that it is in the middle of, and every box is learned by the cell of its centre.
    """
    kind, x, y, w, h = labels.unbind(dim=2)
    inside, near, holds = (
        down[..., :, None] & across[..., None, :]
        for down, across in zip(_along(y, h, height), _along(x, w, width), strict=True)
    )
    counts = (kind >= 0)[..., None, None]
    area = torch.where(counts & (inside & near | holds), (w * h)[..., None, None], math.inf)
    none = area.new_full((len(labels), 1, height, width), math.inf)
    smallest, which = torch.cat([none, area], dim=1).min(dim=1)
    which = torch.where(smallest < math.inf, which - 1, -1)
    spared = ((kind == -1)[..., None, None] & (inside | holds)).any(dim=1) & (which < 0)
    unknown = kind.isnan().all(dim=1)[:, None, None]
    return which, spared | unknown


def _along(middle: Tensor, extent: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of cells along one axis: whose centres lie within each box, are near its middle, and which one holds that."""
    cell = torch.arange(count, device=middle.device)
    away = ((cell + 0.5) / count - middle[..., None]).abs()
    holds = (middle[..., None] * count).floor().clamp(0, count - 1) == cell
    return away <= extent[..., None] / 2, away * count <= NEAR, holds


def _sides(boxes: Tensor, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Cells from the centres of cells to the left, top, right and bottom of boxes, (boxes, 4)."""
    _, middle, down, w, h = boxes.unbind(dim=1)
    across, upright = x + 0.5 - middle * width, y + 0.5 - down * height
    w, h = w * width / 2, h * height / 2
    return torch.stack([across + w, upright + h, w - across, h - upright], dim=1)


def _iou(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the GIoU loss (Rezatofighi et al. 2019, arXiv:1902.09630), of sides (boxes, 4)."""

    def area(sides: Tensor) -> Tensor:
        return (sides[:, :2] + sides[:, 2:]).clamp(min=0).prod(dim=1)

    shared = area(torch.minimum(found, truth))
    union = area(found) + area(truth) - shared
    hull = area(torch.maximum(found, truth))
    shares = shared / union.clamp(min=1e-6)
    return shares, 1 - shares + (hull - union) / hull.clamp(min=1e-6)


def _distribution(log_shares: Tensor, truth: Tensor) -> Tensor:
    """KL divergence of a side's distribution (..., BINS) from the one of two neighbours whose mean is the truth."""
    truth = truth.clamp(0, BINS - 1.001)
    lower = truth.floor().long()
    share = truth - lower
    found = log_shares.gather(-1, torch.stack([lower, lower + 1], dim=-1))
    wanted = torch.stack([1 - share, share], dim=-1)
    return (torch.xlogy(wanted, wanted) - wanted * found).sum(dim=-1)


PLUGIN: Final[Task] = _Detection()
