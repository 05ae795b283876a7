"""What a net is made of, counted by hand; and weights on disk that are data, never code."""

import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError, Disagreement
from edgekd.nets import Anatomy, Layer, Net, anatomy, evaluating, input_shape, load, parameters, save, wrap
from edgekd.specs import Preprocessing


class Residual(nn.Module):
    """x + b(a(x)), all of 4x8x8."""

    def __init__(self, *, add: bool) -> None:
        super().__init__()
        self.a, self.b, self.add = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), add

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.a(images)))
        return images + out if self.add else out


class Split(nn.Module):
    """Each half of the channels goes its own way, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        left, right = images.chunk(2, dim=1)
        return torch.cat([self.left(left), self.right(right)], dim=1)


def layer(kind: str, macs: int, weights: int, inputs: int, outputs: int, channels: int) -> Layer:
    return Layer(kind=kind, macs=macs, weights=weights, inputs=inputs, outputs=outputs, channels=channels)


def counted(found: Anatomy) -> Anatomy:
    """Without what layers tell of their filters."""
    return msgspec.structs.replace(
        found, layers=tuple(layer(*[getattr(one, name) for name in COUNTED]) for one in found.layers)
    )


COUNTED = ("kind", "macs", "weights", "inputs", "outputs", "channels")

BY_HAND: dict[str, tuple[nn.Module, tuple[int, ...], Anatomy]] = {
    "convolution": (
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        (3, 16, 16),
        Anatomy(
            layers=(layer("conv", 8 * 8 * 8 * 27, 8 * 27 + 8, 3 * 256, 8 * 64, 8),),
            outputs=((8, 8, 8),),
            parameters=8 * 27 + 8,
            macs=13824,
            arena_elements=3 * 256 + 8 * 64,
        ),
    ),
    "batch norm and clamp are part of the convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        (3, 16, 16),
        Anatomy(
            layers=(layer("conv", 13824, 8 * 27, 3 * 256, 8 * 64, 8),),
            outputs=((8, 8, 8),),
            parameters=8 * 27 + 16,
            macs=13824,
            arena_elements=3 * 256 + 8 * 64,
        ),
    ),
    "depthwise": (
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        (6, 10, 10),
        Anatomy(
            layers=(layer("depthwise", 6 * 100 * 9, 54, 600, 600, 6),),
            outputs=((6, 10, 10),),
            parameters=54,
            macs=5400,
            arena_elements=1200,
        ),
    ),
    "in groups": (
        nn.Conv2d(4, 8, 1, groups=2, bias=False),
        (4, 5, 5),
        Anatomy(
            layers=(layer("conv", 200 * 2, 16, 100, 200, 8),),
            outputs=((8, 5, 5),),
            parameters=16,
            macs=400,
            arena_elements=300,
        ),
    ),
    "linear": (
        nn.Linear(12, 5),
        (12,),
        Anatomy(
            layers=(layer("linear", 60, 65, 12, 5, 5),), outputs=((5,),), parameters=65, macs=60, arena_elements=17
        ),
    ),
    "pool, flatten, linear": (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3, bias=False)),
        (4, 6, 6),
        Anatomy(
            layers=(layer("pool", 0, 0, 144, 4, 4), layer("linear", 12, 12, 4, 3, 3)),
            outputs=((3,),),
            parameters=12,
            macs=12,
            arena_elements=148,
        ),
    ),
    "one after the other": (
        Residual(add=False),
        (4, 8, 8),
        Anatomy(
            layers=(layer("conv", 256 * 36, 148, 256, 256, 4),) * 2,
            outputs=((4, 8, 8),),
            parameters=2 * 148,
            macs=2 * 9216,
            arena_elements=2 * 256,
        ),
    ),
    "a residual keeps its input alive": (
        Residual(add=True),
        (4, 8, 8),
        Anatomy(
            layers=(layer("conv", 9216, 148, 256, 256, 4),) * 2 + (layer("elementwise", 0, 0, 512, 256, 4),),
            outputs=((4, 8, 8),),
            parameters=2 * 148,
            macs=2 * 9216,
            arena_elements=3 * 256,
        ),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_anatomy_is_what_is_counted_by_hand(case: str) -> None:
    module, shape, expected = BY_HAND[case]
    assert counted(anatomy(module, shape)) == expected


def test_every_branch_of_a_split_is_counted() -> None:
    found = anatomy(Split(), (4, 5, 5))
    assert found.macs == 2 * 25 * 2 * 2
    assert [layer.kind for layer in found.layers].count("conv") == 2


def test_anatomy_computes_nothing_and_leaves_the_net_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    anatomy(module, (1, 2000, 2000))
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_anatomy_leaves_a_net_without_parameters_as_it_is() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2, affine=False))
    anatomy(module, (2, 4, 4))
    assert module.training
    assert not any(buffer.is_meta for buffer in module.buffers())


def test_a_net_without_memory_has_the_same_anatomy() -> None:
    with torch.device("meta"):
        module = Residual(add=True)
    assert counted(anatomy(module, (4, 8, 8))) == BY_HAND["a residual keeps its input alive"][2]


def test_filters_are_told() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.ConvTranspose2d(8, 6, 2), nn.Linear(8, 3))
    conv, transposed, linear = anatomy(module, (4, 15, 15)).layers
    assert (conv.inside, conv.window, conv.stride, conv.positions, conv.groups) == (2, 9, 2, 49, 2)
    assert (transposed.inside, transposed.window, transposed.macs) == (8, 4, 8 * 49 * 6 * 4)
    assert (linear.inside, linear.positions, linear.op) == (8, 48, "addmm")


def test_what_no_answer_needs_is_not_executed() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 400)

        def forward(self, given: Tensor) -> Tensor:
            self.idle(given)
            out: Tensor = self.used(given) + self.idle(given).mean() * 0.0
            return out

    assert anatomy(Idle(), (4,)).macs == 16


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Conv2d(3, 8, 3), (1, 16, 16)), (nn.Linear(12, 5), (13,)), (nn.Conv2d(3, 8, 3), (3, 2, 2))],
)
def test_a_shape_that_a_net_does_not_take_is_said(module: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(Disagreement, match=re.escape(f"the net does not take an input of shape {shape}: ")) as error:
        anatomy(module, shape)
    assert "\n" not in str(error.value)


def test_what_a_user_returns_becomes_a_net() -> None:
    module: Any = nn.Linear(2, 2)
    assert wrap(module, "student f") == Net(module)
    module.preprocessing, module.classes = Preprocessing(size=(4, 4), mean=(0.0,), std=(1.0,)), [0, 1]
    net = wrap(module, "student f")
    assert net.preprocessing == module.preprocessing and net.classes == ("0", "1")
    assert wrap(net, "student f") is net
    assert input_shape(net, (1, 28, 28)) == (1, 4, 4)
    assert input_shape(Net(module), (7,)) == (7,)
    with pytest.raises(ConfigError, match="^student f returned int$"):
        wrap(3, "student f")


def test_evaluating_gives_the_mode_back() -> None:
    module = nn.Sequential(nn.Dropout())
    with pytest.raises(KeyError), evaluating(module):
        assert not module.training and not torch.is_grad_enabled()
        raise KeyError
    assert module.training and torch.is_grad_enabled()


# --- weights on disk


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def test_weights_and_buffers_come_back(tmp_path: Path) -> None:
    module, other = small(), small()
    module(torch.randn(5, 2, 4, 4))  # moves the batch norm's averages
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    save(module, tmp_path / "a.safetensors")
    load(other, tmp_path / "a.safetensors")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert parameters(module) == 2 * 3 * 9 + 3 + 6 + 26


def test_equal_weights_have_equal_bytes(tmp_path: Path) -> None:
    module = small()
    save(module, tmp_path / "a")
    save(module.to(memory_format=torch.channels_last), tmp_path / "b")  # type: ignore[call-overload]  # torch's stub
    load(again := small(), tmp_path / "b")
    save(again, tmp_path / "c")
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(nn.Linear(2, 3), path)
    for other in (nn.Linear(3, 3), nn.Linear(2, 3, bias=False), small()):
        with pytest.raises(ConfigError, match=re.escape(f"{path}: not the weights of this net: ")) as error:
            load(other, path)
        assert "\n" not in str(error.value)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_a_pickle_is_refused_and_never_executed(kind: str, tmp_path: Path) -> None:
    path, touched = tmp_path / "a.safetensors", tmp_path / "touched"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(touched)))
    elif kind == "torch":
        torch.save({"weight": Trap(touched)}, path)
    else:
        with path.open("wb") as opened:
            np.save(opened, np.array([Trap(touched)], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="not the weights of this net"):
        load(small(), path)
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, b"{}", bytes(range(256)) * 8])
def test_a_file_of_anything_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ConfigError, match="not the weights of this net"):
        load(small(), tmp_path / "a")


def test_where_no_file_is_nothing_is_loaded(tmp_path: Path) -> None:
    for path in (tmp_path / "lost", tmp_path):
        with pytest.raises(ConfigError, match="not the weights of this net"):
            load(small(), path)


def test_a_header_with_a_flipped_byte_is_loaded_or_refused(tmp_path: Path) -> None:
    save(small(), tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    for at in range(0, length + 8, 5):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 7)
        (tmp_path / "b").write_bytes(changed)
        try:
            load(small(), tmp_path / "b")
        except ConfigError:
            continue
