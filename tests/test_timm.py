"""timm's nets as teachers, where timm is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import teachers
from edgekd.errors import ConfigError, Disagreement
from edgekd.nets import Net, save
from edgekd.plugins import find
from tests.subjects import subject, text

try:
    import timm  # noqa: F401 - whether it can be used here
except (ModuleNotFoundError, RuntimeError) as missing:
    pytest.skip(f"timm is not installed, or torchvision not for this torch: {missing}", allow_module_level=True)

PICTURES = subject((3, 48, 48))


def teacher(**options: Any) -> Net:
    source = find(teachers, "timm")
    net: Net = source.build(source.Options(**options), PICTURES)
    net.module.eval()
    return net


def test_a_net_answers_about_the_data_and_says_how_it_wants_them() -> None:
    net = teacher(model="mobilenetv3_small_050", size=(48, 48))
    assert net.preprocessing is not None and net.preprocessing.size == (48, 48)
    assert net.preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))
    assert net.module(torch.zeros(2, 3, 48, 48)).shape == (2, 3)
    assert teacher(model="mobilenetv3_small_050").preprocessing != net.preprocessing


def test_weights_of_a_file_are_taken_and_others_are_refused(tmp_path: Path) -> None:
    first = teacher(model="mobilenetv3_small_050")
    save(first.module, tmp_path / "net.safetensors")
    again = teacher(model="mobilenetv3_small_050", weights=str(tmp_path / "net.safetensors"))
    assert torch.equal(first.module(torch.ones(1, 3, 48, 48)), again.module(torch.ones(1, 3, 48, 48)))
    with pytest.raises(ConfigError, match="not the weights of this net"):
        teacher(model="resnet18", weights=str(tmp_path / "net.safetensors"))


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm makes no 'resnet99x'"):
        teacher(model="resnet99x")
    source = find(teachers, "timm")
    with pytest.raises(Disagreement, match="images"):
        source.build(source.Options(), text())
