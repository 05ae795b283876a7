"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv:2502.02737; Apache-2.0), in four bits from a PyPI package.

Of its table of pieces the rows of the data's vocabulary are taken: probabilities are those of the whole model, given
that one of these comes. What it is told to do stands in front of every text, where students do not see it: they learn
to do it without being told (Askell et al. 2021, arXiv:2112.00861, "context distillation").
"""

from typing import Any, Final

import msgspec

from edgekd import smollm, smollm_net
from edgekd.nets import Net
from edgekd.specs import Subject
from edgekd.teachers import TeacherSource


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not in the file."""

    instructions: str = smollm.INSTRUCTIONS
    """What it is told to do; "" tells it nothing. The data's should be the same."""


class _SmolLM:
    Options = Options

    def build(self, options: Any, subject: Subject) -> Net:
        return Net(smollm_net.net_of(subject, options.instructions), classes=subject.classes)


PLUGIN: Final[TeacherSource] = _SmolLM()
