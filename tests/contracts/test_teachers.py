"""Every file in edgekd/teachers is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import teachers
from edgekd.errors import Disagreement, PluginUnavailable
from edgekd.nets import input_shape
from edgekd.plugins import find, names
from tests.subjects import subject

NAMES = [name for name in names(teachers) if name != "model_file"]
"""What a file holds depends on the file: see tests/test_teachers.py."""


@pytest.mark.parametrize("name", NAMES)
def test_answers_a_value_a_class(name: str) -> None:
    source = find(teachers, name)
    try:
        net = source.build(source.Options(), subject((3, 48, 48)))
    except (PluginUnavailable, ModuleNotFoundError) as missing:
        pytest.skip(f"the weights of {name} are not installed: {missing}")
    with torch.no_grad():
        logits = net.module.eval()(torch.zeros(2, *input_shape(net, (3, 48, 48))))
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_takes_float_planes_as_they_are_or_says_that_it_does_not(name: str) -> None:
    source = find(teachers, name)
    try:
        net = source.build(source.Options(), subject((1, 32, 49), kind="numbers"))
    except Disagreement as refused:
        assert "float32" in str(refused)
        return
    assert net.preprocessing is None
    with torch.no_grad():
        logits = net.module.eval()(torch.randn(2, 1, 32, 49))
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()
