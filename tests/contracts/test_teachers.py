"""Every file in edgekd/teachers is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import teachers
from edgekd.errors import PluginUnavailable
from edgekd.nets import input_shape
from edgekd.plugins import find, names


@pytest.mark.parametrize("name", names(teachers))
def test_answers_a_value_a_class(name: str) -> None:
    source = find(teachers, name)
    try:
        net = source.build(source.Options(), ("a", "b", "c"), (3, 48, 48))
    except (PluginUnavailable, ModuleNotFoundError) as missing:
        pytest.skip(f"the weights of {name} are not installed: {missing}")
    with torch.no_grad():
        logits = net.module.eval()(torch.zeros(2, *input_shape(net, (3, 48, 48))))
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()
