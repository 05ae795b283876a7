"""Every file in edgekd/cost is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import cost, students
from edgekd.nets import Anatomy, anatomy, input_shape
from edgekd.plugins import find, names
from edgekd.shipped import load_target, target_names
from edgekd.specs import Cost
from tests.subjects import subject


def described(width: float) -> Anatomy:
    family = find(students, "mobile")
    with torch.device("meta"):
        net = family.build(family.Options(width=width), subject((3, 64, 64)))
        return anatomy(net.module, input_shape(net, (3, 64, 64)))


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("name", names(cost))
def test_more_net_costs_more_and_the_interval_holds_the_value(name: str, target: str) -> None:
    model = find(cost, name)
    for precision in ("fp32", "int8"):
        nets = [described(width) for width in (0.5, 1.5)]
        small, large = (model.estimate(net, load_target(target), precision) for net in nets)
        assert model.estimate_all(nets, load_target(target), precision) == [small, large]
        assert isinstance(small, Cost) and small.tier
        assert 0 < small.latency_ms.low < small.latency_ms.value < small.latency_ms.high
        assert small.latency_ms.value < large.latency_ms.value
        assert small.file_bytes < large.file_bytes and small.peak_memory_bytes < large.peak_memory_bytes
