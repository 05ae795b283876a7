"""Nets with a front that is never trained: what it answers is computed once, whoever learns behind it.

A teacher and its students often share such a front, and most of the arithmetic is in it: Whisper's encoder in
Distil-Whisper (Gandhi et al. 2023, arXiv:2311.00430). Its answers to a split are an entry of the store, by what the
front computes and the examples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgekd import store
from edgekd.columns import Column, shards_of
from edgekd.files import digest, link
from edgekd.nets import Net, code_digest, evaluating, weights_digest
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Data, Views
from edgekd.training import viewer_of
from edgekd.views import Viewer

VERSION: Final = 1
AT_ONCE: Final = 25
"""Examples that a front computes together."""


class Fronted(nn.Module):
    """A net of two parts: `front` reads the first input and stays as it is, `rest` reads what the front answers in that
    input's place."""

    def __init__(self, front: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.front: nn.Module = front
        self.rest: nn.Module = rest
        front.requires_grad_(False)

    def forward(self, first: Tensor, *further: Tensor) -> Any:
        return self.rest(self.front(first), *further)


@contextmanager
def seen(
    work: Work,
    data: Data,
    split: Literal["train", "test"],
    net: Net,
    views: Views | None = None,
    seed: int = 0,
) -> Iterator[tuple[nn.Module, Viewer]]:
    """What of a net is computed for each batch, and what that is shown of a split: all of it, or what is behind its
    front, where examples are no images that have views."""
    viewer = viewer_of(work, data, split, net.preprocessing, views, seed)
    if not isinstance(net.module, Fronted) or data.subject.images:
        yield net.module, viewer
        return
    path = work.out / f"front-{split}.npy"
    _take(net.module.front, data.inputs(split)[0].sha256, viewer, f"{split} of {data.name}", path)
    beside = [Rows(work.path(file)) for file in data.inputs(split)[1:]]
    yield net.module.rest, Viewer(Rows(path), None, beside=beside)
    path.unlink(missing_ok=True)


def _take(front: nn.Module, examples: str, viewer: Viewer, what: str, path: Path) -> None:
    """The front's answers to all examples as a float16 array of (examples, ...)."""
    key = digest(["front", VERSION, weights_digest(front), code_digest(front), examples])
    with store.entry(key, "front", what) as shelf:
        column = Column(shelf, "answers", shards_of(len(viewer), AT_ONCE))
        if not column.intact():
            column.complete("computing the front", partial(_answer, front, viewer, column))
        link(column.path, path)


def _answer(front: nn.Module, viewer: Viewer, column: Column, rows: range) -> None:
    indices = np.asarray(rows)
    with evaluating(front):
        for start in range(0, len(indices), AT_ONCE):
            some = indices[start : start + AT_ONCE]
            answer: Tensor = front(viewer.batch(some))
            column.write(int(some[0]), answer.to(torch.float16).numpy())
