"""Relational KD: Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", arXiv:1904.05068."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.losses import Batch, Features, Pair
from edgekd.losses._features import Summed, vectors_of

_EQUAL = 1e-15
"""Embeddings nearer than this are one: float32 cannot square what is much smaller."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of relational KD; a term of weight 0 is not computed."""

    distance: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 25.0
    """Weight of RKD-D: how far examples are from each other, against the mean distance of the batch."""
    angle: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 50.0
    """Weight of RKD-A: the cosines of the triangles that examples make; takes memory for batch^3 numbers."""


class _Relations:
    """On outputs, or on layers."""

    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """distance L_RKD-D + angle L_RKD-A; the embedding that the paper leaves open is the output here.

        Each is the Huber loss (delta 1) of the student's against the teacher's potentials, averaged over all ordered
        pairs or triples of different examples; the official code averages over those with repeated examples as well.
        It sees no turn, mirroring, shift or scaling of all the logits, so it teaches no class: combine it. Equal
        embeddings have no direction between them, and a cosine with it counts as 0. One example has no pair, two have
        no triple: the term is 0. A dense output is one embedding, in which positions without a label are 0.
        """
        assert batch.teacher is not None
        return _loss(_embeddings(batch.student, batch.labels), _embeddings(batch.teacher, batch.labels), options)

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """As on outputs, summed over pairs; a layer is one embedding, in which padding is 0. Shapes may differ."""
        return Summed([_OfLayers(options) for _ in pairs])


class _OfLayers(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, features: Features) -> Tensor:
        student, teacher = (vectors_of(one, features.mask) for one in (features.student, features.teacher))
        return _loss(student, teacher, self.options)


def _embeddings(outputs: Tensor, labels: Tensor) -> Tensor:
    if outputs.dim() > 2 and not labels.is_floating_point():
        outputs = outputs.masked_fill((labels < 0)[:, None], 0)
    return outputs.flatten(1)


def _loss(student: Tensor, teacher: Tensor, options: Options) -> Tensor:
    loss = student.sum() * 0  # so that there is a gradient, if only of 0, without any pair
    student, teacher = _differences(student), _differences(teacher)
    if options.distance:
        loss = loss + options.distance * _distance_loss(student, teacher)
    if options.angle:
        loss = loss + options.angle * _angle_loss(student, teacher)
    return loss


def _differences(embeddings: Tensor) -> Tensor:
    """Of shape (batch, batch, numbers): from the first example to the second."""
    return embeddings[None, :] - embeddings[:, None]


def _distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = len(student) * (len(student) - 1)
    huber = F.smooth_l1_loss(_distances(student, pairs), _distances(teacher, pairs), reduction="sum")
    return huber / max(pairs, 1)


def _distances(differences: Tensor, pairs: int) -> Tensor:
    """psi_D: distances over their mean mu."""
    distance: Tensor = torch.linalg.vector_norm(differences, dim=2)
    mu = distance.sum() / max(pairs, 1)
    return distance / mu.masked_fill(mu < _EQUAL, 1)


def _angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    count = len(student)
    huber = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none")
    same_ends = torch.eye(count, dtype=torch.bool, device=student.device)
    return huber.masked_fill(same_ends, 0).sum() / max(count * (count - 1) * (count - 2), 1)


def _cosines(differences: Tensor) -> Tensor:
    """psi_A of shape (batch, batch, batch): the angle at the first example; 0 where an end is the first itself."""
    length: Tensor = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    directions = differences / length.masked_fill(length < _EQUAL, 1)
    return directions @ directions.mT


PLUGIN: Final = _Relations()
