"""Attention."""

import math
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given, broadcast
from edgekd.coreml.operators import Table
from edgekd.coreml.operators.linear import multiply


def _scaled_dot_product_attention(given: Given) -> Tensor:
    query, key, value = (given.tensor(name) for name in ("query", "key", "value"))
    mask = given.maybe("attn_mask")
    if min(query.dim(), key.dim(), value.dim()) < 2 or not query.shape[-1]:
        raise ValueError(f"query, key and value of ranks {query.dim()}, {key.dim()} and {value.dim()}")
    scores = multiply(given, query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if mask is not None:
        given.room(broadcast(scores, mask))
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return multiply(given, torch.softmax(scores, -1), value)


OPERATORS: Final[Table] = {"scaled_dot_product_attention": _scaled_dot_product_attention}
SINCE: Final = {8: ("scaled_dot_product_attention",)}
