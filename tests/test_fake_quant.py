"""The simulation rounds what int8 rounds, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.fake_quant import FakeQuantized, is_below, round_activation, round_weight, rounded_beside, roundings
from edgekd.parity import sqnr_db
from edgekd.students._blocks import InvertedResidual
from edgekd.traces import trace
from tests.text_nets import encoder, sentences

VALUES = st.floats(-100, 100, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=VALUES)


@given(MATRICES)
def test_weights_are_whole_multiples_of_their_channels_step(weight: NDArray[np.float32]) -> None:
    found = round_weight(torch.from_numpy(weight)).numpy()
    steps = np.maximum(np.abs(weight).max(1, keepdims=True) / 127, 1e-12)
    counts = found / steps
    assert np.abs(counts - counts.round()).max() < 1e-3
    assert np.abs(counts).max() < 127.001
    assert (np.abs(found - weight) <= steps * 0.5001).all()


@given(MATRICES)
def test_activations_are_off_by_half_a_step_and_zero_by_none(values: NDArray[np.float32]) -> None:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    found = round_activation(torch.from_numpy(values), torch.tensor(low), torch.tensor(high)).numpy()
    step = max((high - low) / 255, 1e-12)
    assert (np.abs(found - values) <= step * 1.01).all()  # the zero point is rounded as well
    assert (found[values == 0] == 0).all()


def test_gradients_pass_through_rounding_but_not_through_clipping() -> None:
    weight = torch.tensor([[0.3, -1.0, 0.77]], requires_grad=True)
    round_weight(weight).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[1, 1, 1]]
    values = torch.tensor([-3.0, 0.4, 5.0], requires_grad=True)
    round_activation(values, torch.tensor(-1.0), torch.tensor(1.0)).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 0]


class Block(nn.Module):
    """An inverted residual, a pool and a classifier, by functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = InvertedResidual(4, 4, 1, expansion=2)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(images).mean((2, 3)))


@pytest.fixture
def examples() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32))


def test_a_kernel_rounds_what_it_writes_once(examples: Tensor) -> None:
    """Not between a convolution, its batch norm and its ReLU6, and not what a view gives on."""
    followed = trace(Block().eval(), [torch.zeros(1, 4, 8, 8)])
    assert [(one.node, one.modules) for one in roundings(followed)] == [
        ("images", ("block",)),  # the addition reads it too
        ("block_layers_0_0_weight", ("block.layers.0.0",)),
        ("hardtanh", ("block.layers.0.0", "block.layers.1.0")),
        ("block_layers_1_0_weight", ("block.layers.1.0",)),
        ("hardtanh_1", ("block.layers.1.0", "block.layers.2.0")),
        ("block_layers_2_0_weight", ("block.layers.2.0",)),
        ("batch_norm_2", ("block",)),
        ("add", ()),  # the mean that reads it is the outermost module's
        ("mean", ()),
        ("head_weight", ("head",)),
        ("linear", ("head",)),
    ]


class Constants(nn.Module):
    """Adds and multiplies with what it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([[0.0, 1.0, 100.0]]))
        self.register_buffer("counts", torch.arange(3))

    def forward(self, features: Tensor) -> Tensor:
        return (features + self.shift) * self.counts / 3


def test_constants_are_rounded_by_the_whole_tensor() -> None:
    followed = trace(Constants(), [torch.zeros(1, 3)])
    assert [one.node for one in roundings(followed)][:3] == ["features", "shift", "add"]
    zeros = torch.zeros(1, 3)
    simulated = FakeQuantized(followed, frozenset({"shift"})).eval()
    assert simulated(zeros)[0].tolist() == pytest.approx([0.0, 100 / 255 * 3 / 3, 200 / 3], rel=1e-5)


def test_what_is_in_float_is_not_rounded(examples: Tensor) -> None:
    followed = trace(Block().eval(), [torch.zeros(1, 4, 8, 8)])
    everything = rounded_beside(followed, ())
    assert everything - rounded_beside(followed, ["head"]) == {"head_weight", "linear"}
    assert everything - rounded_beside(followed, ["block.layers.0.0"]) == {"block_layers_0_0_weight"}
    assert rounded_beside(followed, ["block", "head"]) == {"add", "mean"}


def test_nothing_rounded_is_the_net_itself(examples: Tensor) -> None:
    module = Block().eval()
    simulated = FakeQuantized(trace(module, [torch.zeros(1, 4, 8, 8)]), frozenset()).eval()
    with torch.no_grad():
        assert torch.allclose(simulated(examples), module(examples), atol=1e-6)


def test_more_rounding_is_more_noise(examples: Tensor) -> None:
    module = Block().eval()
    followed = trace(module, [torch.zeros(1, 4, 8, 8)])
    noises = []
    for in_float in ((), ("block",), ("block", "head")):
        simulated = FakeQuantized(followed, rounded_beside(followed, in_float)).eval()
        simulated.observe([examples])
        with torch.no_grad():
            noises.append(float((simulated(examples) - module(examples)).square().sum()))
    assert noises == sorted(noises, reverse=True) and noises[-1] > 0


def test_ranges_move_in_training_alone(examples: Tensor) -> None:
    simulated = FakeQuantized(trace(Block().eval(), [torch.zeros(1, 4, 8, 8)]), momentum=0.5)
    simulated.observe([examples])
    low, high = simulated.low.clone(), simulated.high.clone()
    assert (low <= 0).all() and (high >= 0).all() and (high > low).all()
    simulated.eval()(examples / 2)
    assert torch.equal(simulated.low, low) and torch.equal(simulated.high, high)
    simulated.train()(examples / 2)
    assert simulated.high[0] == pytest.approx(0.75 * float(high[0]))
    assert simulated.low[0] == pytest.approx(0.75 * float(low[0]))


def test_the_callers_module_is_not_touched(examples: Tensor) -> None:
    module = Block().eval()
    simulated = FakeQuantized(trace(module, [torch.zeros(1, 4, 8, 8)]))
    with torch.no_grad():
        for parameter in simulated.parameters():
            parameter.zero_()
    assert module.head.weight.abs().max() > 0
    module.train()
    trace(module, [torch.zeros(1, 4, 8, 8)])
    assert module.training


def test_modules_are_below_others_by_their_path() -> None:
    assert is_below("blocks.3.conv", ["blocks.3"]) and is_below("blocks.3", ["blocks.3"])
    assert not is_below("blocks.30", ["blocks.3"]) and not is_below("blocks.3", ["blocks.3.conv"])


def test_tokens_and_several_outputs_are_followed() -> None:
    module = encoder()
    tokens = torch.from_numpy(sentences())
    simulated = FakeQuantized(trace(module, [tokens])).eval()
    simulated.observe([tokens])
    with torch.no_grad():
        pairs = list(zip(module(tokens), simulated(tokens), strict=True))
    assert len(pairs) == 2
    for expected, found in pairs:
        assert expected.shape == found.shape and not torch.equal(expected, found)
        assert sqnr_db(expected.numpy(), found.numpy()) > 15
