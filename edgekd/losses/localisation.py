"""Localisation distillation: Zheng, Ye, Wang, Ren, Zuo, Hou and Cheng 2022, "Localization Distillation for Dense Object
Detection", arXiv:2102.12252."""

from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.losses import Batch, Loss
from edgekd.losses._divergences import kl_each
from edgekd.losses._features import weighted_mean


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of localisation distillation; the defaults are the official code's."""

    bins: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 17
    """n + 1, of each side's distribution."""
    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 10.0
    """tau, which divides the logits of both."""


class _Localisation:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """tau^2 KL(S(z_T, tau) || S(z_S, tau)), summed over the four sides, averaged over the positives of the batch.

        Outputs are (batch, 4 * bins + classes, height, width): the distributions of the left, top, right and bottom
        side come first. Labels are (batch, boxes, 5): class, centre x and y, width and height in 0..1, NaN for no box.
        A position is positive where its centre lies in a box, or where it holds a box's centre. The official code
        takes those that its detector's anchors are assigned to, and a region around them by the anchors' DIoU; here are
        no anchors, so that region is left out. It also weighs positions by the student's confidence, and averages over
        bins.

        Raises:
            ConfigError: the output is too small for four distributions.
        """
        assert batch.teacher is not None
        if batch.student.dim() != 4 or batch.student.shape[1] < 4 * options.bins:
            raise ConfigError(
                f"an output of shape {tuple(batch.student.shape[1:])} has no 4 sides of {options.bins} bins",
                hint="set `bins`; the output is to be (4 * bins + classes, height, width)",
            )
        log_q, log_p = (_sides(one, options) for one in (batch.student, batch.teacher))
        boxes = kl_each(log_p, log_q, dim=2).sum(dim=1)
        counted = positives(batch.labels, *boxes.shape[1:]).to(boxes.dtype)
        loss: Tensor = weighted_mean(boxes, counted) * options.temperature**2
        return loss


def _sides(outputs: Tensor, options: Options) -> Tensor:
    """Logarithms of S, of shape (batch, 4, bins, height, width)."""
    sides = outputs[:, : 4 * options.bins].reshape(len(outputs), 4, options.bins, *outputs.shape[2:])
    return F.log_softmax(sides / options.temperature, dim=2)


def positives(labels: Tensor, height: int, width: int) -> Tensor:
    """Which positions see a box, (batch, height, width)."""
    x, y, w, h = labels[..., 1:, None].unbind(dim=-2)
    across, down = _along(x, w, width), _along(y, h, height)
    inside, centre = (down[which][..., :, None] & across[which][..., None, :] for which in range(2))
    return (inside | centre).any(dim=1)


def _along(middle: Tensor, extent: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of positions along one axis: whose centres lie within each box, and which holds its centre; nowhere for NaN."""
    position = torch.arange(count, device=middle.device)
    inside = ((position + 0.5) / count - middle).abs() <= extent / 2
    return inside, (middle * count).floor().clamp(0, count - 1) == position


PLUGIN: Final[Loss] = _Localisation()
