"""Channel-wise KD: Shu, Liu, Gao, Yan and Shen 2021, "Channel-wise Knowledge Distillation for Dense Prediction",
arXiv:2011.13256."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.losses import Batch, Features, Pair
from edgekd.losses._divergences import kl
from edgekd.losses._features import Summed, are_maps, pool_alike, project_channels, projection, require


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of channel-wise KD."""

    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 4.0
    """T, which divides activations: the higher, the wider the region that is looked at."""


class _ChannelWise:
    """On outputs that have positions, or on layers (channels, *positions)."""

    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """As on layers; positions without a label count too, for what is looked at is the whole of a map.

        Raises:
            ConfigError: the output has no positions.
        """
        assert batch.teacher is not None
        if batch.student.dim() < 3:
            raise ConfigError(
                f"an output of shape {tuple(batch.student.shape[1:])} has no positions", hint="take `soft_targets`"
            )
        return _loss(batch.student, batch.teacher, options.temperature)

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """T^2 KL(phi(y^T) || phi(y^S)), averaged over batch and channels, summed over pairs.

        phi is the softmax of a channel's activations over T along all positions. Where the numbers of channels differ
        a learned 1x1 convolution makes the student's the teacher's; the larger map is averaged down to the smaller.
        The paper weighs it by 50 on features and by 3 on logits.
        """
        require(pairs, are_maps, "both (channels, *positions)", "take what convolutions answer")
        return Summed([_Channels(pair, options.temperature) for pair in pairs])


class _Channels(nn.Module):
    def __init__(self, pair: Pair, temperature: float) -> None:
        super().__init__()
        student, teacher = pair.student[0], pair.teacher[0]
        self.projection = nn.Identity() if student == teacher else projection(student, teacher)
        self.temperature = temperature

    def forward(self, features: Features) -> Tensor:
        student, teacher = pool_alike(features.student, features.teacher)
        return _loss(project_channels(self.projection, student), teacher, self.temperature)


def _loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q, log_p = (F.log_softmax(one.flatten(2) / temperature, dim=2) for one in (student, teacher))
    return kl(log_p, log_q, dim=2) * temperature**2


PLUGIN: Final = _ChannelWise()
