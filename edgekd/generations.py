"""Texts that a student writes itself while it learns (Agarwal et al. 2024, "On-Policy Distillation of Language Models:
Learning from Self-Generated Mistakes", arXiv:2306.13649).

On the data a student sees, before each token, only what somebody else has written, and is never told what to do after
mistakes of its own. So in a share lambda of the steps it goes on itself with the beginnings of the batch's texts, drawn
from its softmax at temperature 1, and the loss is the divergence from what its teachers say about that, token by token.
Nothing is learned through the drawing. What is drawn depends on the seed, the step and the weights alone.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd import decoding
from edgekd.decoding import Step
from edgekd.nets import evaluating
from edgekd.rows import Rows

UNLABELLED: Final = -1


class OwnTexts:
    """A `training.Writer`: has a step of the net that learns go on with texts, in a share of the steps of training."""

    def __init__(self, step: Step, labels: Rows | NDArray[Any], share: float, end: int, seed: int) -> None:
        """`labels` are those of the data, which tell where the beginning of a text ends; `end` is what ends it."""
        self._step, self._labels, self._share, self._end, self._seed = step, labels, share, end, seed

    def __call__(self, inputs: Tensor, indices: NDArray[np.int64], number: int) -> tuple[Tensor, Tensor] | None:
        random = np.random.default_rng([self._seed, number, 2306])
        if random.random() >= self._share:
            return None
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        known = torch.from_numpy(decoding.given(self._labels[indices])).to(inputs.device)
        with evaluating(self._step):
            texts = decoding.written(self._step, inputs, known, self._end, generator)
        return texts, follows(texts, known, self._end)


def follows(texts: Tensor, known: Tensor, end: int) -> Tensor:
    """Labels of texts whose first `known` tokens are given: what follows each token, for the others up to the end."""
    places = torch.arange(texts.shape[1] - 1, device=texts.device)
    later = texts[:, 1:]
    written = places + 1 >= known[:, None]
    ended = ((later == end) & written).cumsum(1)
    counted = written & ((ended == 0) | ((ended == 1) & (later == end)))
    labels = torch.full_like(texts, UNLABELLED)
    labels[:, :-1] = torch.where(counted, later, UNLABELLED)
    return labels
