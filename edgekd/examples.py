"""A few test images with what is in them and what an artifact answers, for people to look at."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from edgekd.runs import Work
from edgekd.specs import Data, File

if TYPE_CHECKING:
    from edgekd.tasks import Mark

MOST: Final = 4
LOOKED_AT: Final = 100
"""Of the first test images so many may be shown; the first with two things in them are."""
LARGEST_SIDE: Final = 640
"""Of an image that is shown as it is; larger ones are shrunk."""


class Example(msgspec.Struct, frozen=True):
    """An image, and boxes over it."""

    png: bytes
    height: int
    width: int
    truth: "tuple[Mark, ...]"
    found: "tuple[Mark, ...]"


def examples(work: Work, data: Data, answers: Sequence[File]) -> tuple[Example, ...]:
    """Of the first output that can be drawn; `answers` are an artifact's on the test split. () where none can."""
    if data.subject.kind != "images":
        return ()
    from edgekd import heads  # which needs torch: a report's other readers do not

    images = np.load(work.path(data.test_inputs), mmap_mode="r", allow_pickle=False)[:LOOKED_AT]
    for task, output, file, label in zip(
        heads.tasks_of(data.subject), data.subject.outputs, answers, data.test_labels, strict=True
    ):
        draw = getattr(task, "marks", None)
        if draw is None:
            continue
        given = [np.load(work.path(one), mmap_mode="r", allow_pickle=False)[:LOOKED_AT] for one in (file, label)]
        marks = list(draw(*map(np.asarray, given), output.classes))
        telling = [index for index, (truth, _) in enumerate(marks) if len(truth) >= 2][:MOST]
        return tuple(Example(_png(images[index]), *images.shape[2:], *map(tuple, marks[index])) for index in telling)
    return ()


def _png(image: np.ndarray) -> bytes:
    """Of (channels, height, width) uint8: the first three channels in colour, or the first in grey."""
    from PIL import Image

    pixels = np.asarray(image)
    picture = Image.fromarray(pixels[0] if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0))
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()
