"""Boxes out of a detector's answers, and how good they are: mean average precision as COCO has it. Plain numpy.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context", arXiv:1405.0312; the details are those of pycocotools.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS: Final = 9
"""Distances that the distribution of a side is over."""
LEAST_SCORE: Final = 0.05
"""What is less sure is no box."""
MOST_BOXES: Final = 100
"""In an image, the surest."""
SAME: Final = 0.6
"""Intersection over union from which on two boxes of a class are one thing, found twice."""
THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
"""Of intersection over union, from which on a box is right."""
_RECALLS: Final = np.linspace(0, 1, 101)
_BITS: Final = 1 << np.arange(len(THRESHOLDS))


class Boxes(NamedTuple):
    """What an answer says is in an image, the surest first."""

    kinds: NDArray[np.int64]
    scores: Array
    corners: Array
    """(boxes, 4): left, top, right, bottom, in 0..1."""


NEAR: Final = 1.5
"""Cells around a thing's centre that learn to find it."""
BEHIND: Final = 0.5
"""Cells from the first distance, behind a cell's centre, up to that: a thing may be smaller than its cell."""


def pitch(height: int, width: int) -> float:
    """Cells of a grid from one distance to the next; a thing as large as the image is told by all cells near its
    centre."""
    return (max(height, width) / 2 + NEAR + BEHIND) / (BINS - 1)


def decode(outputs: Array) -> list[Boxes]:
    """The boxes of answers (examples, 4 * BINS + classes, height, width), one of each thing."""
    examples, _, height, width = outputs.shape
    sides = outputs[:, : 4 * BINS].reshape(examples, 4, BINS, height, width).astype(np.float32)
    shares = np.exp(sides - sides.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    reach = np.einsum("nsbhw,b->nshw", shares, np.arange(BINS, dtype=np.float32)) * pitch(height, width) - BEHIND
    x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    left, top, right, bottom = reach.transpose(1, 0, 2, 3)
    corners = np.stack(
        [(x - left) / width, (y - top) / height, (x + right) / width, (y + bottom) / height], axis=-1
    ).reshape(examples, -1, 4)
    with np.errstate(over="ignore"):  # of a logit far below 0 the score is 0
        scores = 1 / (1 + np.exp(-outputs[:, 4 * BINS :].astype(np.float64)))
    scores = scores.reshape(examples, -1, height * width)
    return [_of_one(one, boxes.clip(0, 1)) for one, boxes in zip(scores, corners, strict=True)]


def _of_one(scores: Array, corners: Array) -> Boxes:
    """Of scores (classes, positions) and corners (positions, 4)."""
    kinds, places = np.nonzero(scores > LEAST_SCORE)
    surest = np.argsort(-scores[kinds, places], kind="stable")[: 10 * MOST_BOXES]
    kinds, places = kinds[surest], places[surest]
    boxes = corners[places]
    same = (overlaps(boxes, boxes) > SAME) & (kinds[:, None] == kinds)
    gone = np.zeros(len(kinds), bool)
    kept = []
    for index in range(len(kinds)):  # non-maximum suppression: the surest stays, and whatever is the same goes
        if not gone[index]:
            kept.append(index)
            gone |= same[index]
    chosen = np.array(kept[:MOST_BOXES], np.int64)
    return Boxes(kinds[chosen], scores[kinds[chosen], places[chosen]], boxes[chosen])


def corners_of(labels: Array) -> Array:
    """(boxes, 4) of labels (boxes, 5)."""
    return np.concatenate([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2], axis=1)


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of each of `first` with each of `second`, (first, second)."""
    shared = _shared(first, second)
    union = _area(first)[:, None] + _area(second) - shared
    share: Array = shared / np.maximum(union, 1e-12)
    return share


def _shared(first: Array, second: Array) -> Array:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    area: Array = (high - low).clip(min=0).prod(axis=2)
    return area


def _area(boxes: Array) -> Array:
    area: Array = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    return area


# --- how good they are


def examined(boxes: Boxes, labels: Array, classes: int) -> Array:
    """A row of numbers about an image: things of each class, then class, score, hits and passes of each box.

    Hits and passes are numbers whose bits stand for the thresholds: where the box is right, and where it counts
    neither for nor against. Of an image without labels all numbers are 0.
    """
    row = np.zeros(classes + 4 * MOST_BOXES)
    known = labels[np.isfinite(labels[:, 0])]
    if not len(known):
        return row
    things = known[np.isfinite(known[:, 1])]
    corners, kinds = corners_of(things), things[:, 0].astype(np.int64)
    row[:classes] = np.bincount(kinds[kinds >= 0], minlength=classes)
    hits = np.zeros((len(boxes.kinds), len(THRESHOLDS)), bool)
    for kind in np.unique(boxes.kinds):
        mine = boxes.kinds == kind
        hits[mine] = _hits(overlaps(boxes.corners[mine], corners[kinds == kind]))
    odd = corners[kinds < 0]
    inside = _shared(boxes.corners, odd) / np.maximum(_area(boxes.corners), 1e-12)[:, None]
    passes = ~hits & (inside.max(axis=1, initial=0.0)[:, None] >= THRESHOLDS)
    found = row[classes:].reshape(MOST_BOXES, 4)[: len(hits)]
    found[:] = np.stack([boxes.kinds, boxes.scores, hits @ _BITS, passes @ _BITS], axis=1)
    return row


def _hits(shares: Array) -> Array:
    """Which boxes, the surest first, find a thing that none before them found, (boxes, thresholds)."""
    boxes, things = shares.shape
    hits = np.zeros((boxes, len(THRESHOLDS)), bool)
    free = np.ones((len(THRESHOLDS), things), bool)
    for index in range(boxes if things else 0):
        near = np.where(free, shares[index], -1.0)
        best = near.argmax(axis=1)
        hits[index] = near.max(axis=1) >= THRESHOLDS
        free[hits[index], best[hits[index]]] = False
    return hits


def mean_precisions(rows: Array) -> Array:
    """Mean over the classes that occur of the average precision, at each threshold; `rows` are of `examined`."""
    classes = rows.shape[1] - 4 * MOST_BOXES
    things = rows[:, :classes].sum(axis=0)
    found = rows[:, classes:].reshape(-1, 4)
    found = found[found[:, 1] > 0]
    found = found[np.argsort(-found[:, 1], kind="stable")]
    precisions = [_precisions(found[found[:, 0] == kind], things[kind]) for kind in np.flatnonzero(things)]
    return np.mean(precisions, axis=0) if precisions else np.zeros(len(THRESHOLDS))


def _precisions(found: Array, things: float) -> Array:
    """Average precision of one class at each threshold: the mean of what is reached at 101 recalls."""
    hits, passes = ((found[:, column, None].astype(np.int64) & _BITS) > 0 for column in (2, 3))
    right, wrong = np.cumsum(hits, axis=0), np.cumsum(~hits & ~passes, axis=0)
    precision = right / np.maximum(right + wrong, 1)
    reached = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # at this recall, or at a greater one
    reached = np.concatenate([reached, np.zeros((1, len(THRESHOLDS)))])
    at = [np.searchsorted(recall, _RECALLS) for recall in right.T / things]
    return np.array([one[index].mean() for one, index in zip(reached.T, at, strict=True)])
