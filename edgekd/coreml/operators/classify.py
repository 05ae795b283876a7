"""What a classifier answers."""

from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given, Value
from edgekd.coreml.operators import Table


def _classify(given: Given) -> tuple[Value, Tensor]:
    """The likeliest class, and the probabilities in the order of the classes."""
    probabilities, classes = given.tensor("probabilities").reshape(-1), given.elements("classes")
    if len(classes) != len(probabilities) or not classes:
        raise ValueError(f"{len(classes)} classes for {len(probabilities)} probabilities")
    best = classes[int(torch.argmax(probabilities))]
    return best, probabilities


OPERATORS: Final[Table] = {"classify": _classify}
