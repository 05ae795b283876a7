"""Corrections change what integers make of a net, and nothing else."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.corrections import LARGEST_SCALE, correct_biases, equalize, fewer
from edgekd.errors import ConvertError
from edgekd.fake_quant import FakeQuantized, round_weight
from edgekd.parity import sqnr_db
from edgekd.traces import trace
from tests.hard_toys import residual, spread, unevened
from tests.text_nets import encoder, sentences


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(count: int = 32, channels: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, channels, 16, 16)).astype(np.float32))


def settled(module: nn.Module, examples: Tensor) -> nn.Module:
    """With batch norms that have seen data, and biases that are not zero."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(examples)
    return module.eval()


def in_integers(module: nn.Module, examples: Tensor) -> Tensor:
    rounded = FakeQuantized(trace(module, [examples])).eval()
    rounded.observe([examples])
    with torch.no_grad():
        return rounded(examples)


def noise_db(module: nn.Module, examples: Tensor) -> float:
    """Of the module in integers, against itself in float."""
    with torch.no_grad():
        return sqnr_db(module(examples).numpy(), in_integers(module, examples).numpy())


def same(one: nn.Module, other: nn.Module, examples: Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(one(examples), other(examples), rtol=1e-3, atol=1e-3)


# --- equalization


def chain(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def through_relu() -> nn.Module:
    return chain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(576, 3))


def through_norm() -> nn.Module:
    return chain(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


def through_depthwise() -> nn.Module:
    return chain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def through_groups() -> nn.Module:
    return chain(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3, groups=2))


def through_pooling() -> nn.Module:
    return chain(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3))


def through_linears() -> nn.Module:
    return chain(nn.Flatten(2), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3))


SCALED: dict[str, Callable[[], nn.Module]] = {
    made.__name__: made
    for made in (through_relu, through_norm, through_depthwise, through_groups, through_pooling, through_linears)
}


def scale_first(module: nn.Module, times: float) -> None:
    """Scale the channels that the first layer gives, and take it back where the second reads them."""
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    scales = spread(8, times)
    with torch.no_grad():
        for parameter in (norms or layers)[0].parameters():
            parameter.mul_(scales.view(-1, *[1] * (parameter.dim() - 1)))
        weight = layers[1].weight
        groups = getattr(layers[1], "groups", 1)
        columns = weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
        columns /= scales.view(groups, 1, -1, 1)


@pytest.mark.parametrize("made", SCALED.values(), ids=SCALED)
def test_equalization_undoes_what_was_scaled_and_changes_nothing_else(made: Callable[[], nn.Module]) -> None:
    examples = images()
    module = settled(made(), examples)
    as_it_was = noise_db(module, examples)
    uneven = copy.deepcopy(module)
    scale_first(uneven, 100.0)
    assert same(module, uneven, examples), "the test's own scaling"
    spoilt = noise_db(uneven, examples)
    before = {name: tensor.clone() for name, tensor in uneven.state_dict().items()}
    equalized = equalize(uneven, [examples])
    assert same(uneven, equalized, examples)
    assert spoilt < as_it_was - 8
    assert noise_db(equalized, examples) > as_it_was - 4
    assert all(torch.equal(before[name], tensor) for name, tensor in uneven.state_dict().items())
    assert equalized.state_dict().keys() == uneven.state_dict().keys()


def test_a_residual_stream_is_equalized_as_one() -> None:
    examples = images()
    module = settled(residual(), examples)
    as_it_was = noise_db(module, examples)
    uneven = copy.deepcopy(module)
    unevened(uneven, 100.0)
    assert noise_db(uneven, examples) < as_it_was - 12
    equalized = equalize(uneven, [examples])
    assert same(module, equalized, examples)
    assert noise_db(equalized, examples) > as_it_was - 8


class Twice(nn.Module):
    """One layer, and two that read what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.first(images))
        return torch.cat([self.left(features), self.right(features)], 1)


class Shared(nn.Module):
    """A layer that reads two tensors, and scales for one would not do for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.again(torch.relu(self.again(torch.relu(self.first(images)))))


def test_all_readers_of_a_tensor_are_scaled() -> None:
    torch.manual_seed(0)
    module = Twice().eval()
    with torch.no_grad():
        module.first.weight *= spread(8, 100.0).view(-1, 1, 1, 1)
    equalized = equalize(module, [images()])
    assert same(module, equalized, images())
    assert not torch.equal(equalized.state_dict()["first.weight"], module.first.weight)
    assert not torch.equal(equalized.state_dict()["left.weight"], module.left.weight)
    assert not torch.equal(equalized.state_dict()["right.weight"], module.right.weight)


BETWEEN = {
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(1),
    "norm without weights": nn.BatchNorm2d(8, affine=False),
    "shuffle": nn.ChannelShuffle(2),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_what_does_not_let_factors_pass_is_left_alone(between: nn.Module) -> None:
    module = chain(nn.Conv2d(1, 8, 3), copy.deepcopy(between), nn.Conv2d(8, 4, 3)).eval()
    equalized = equalize(module, [images()])
    assert all(torch.equal(tensor, equalized.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_a_layer_that_computes_twice_is_left_alone() -> None:
    torch.manual_seed(0)
    module = Shared().eval()
    equalized = equalize(module, [images()])
    assert torch.equal(equalized.again.weight, module.again.weight)
    assert torch.equal(equalized.first.weight, module.first.weight)


def test_a_dead_channel_is_not_scaled_away() -> None:
    module = through_relu().eval()
    with torch.no_grad():
        module[0].weight[3] = 0
        module[0].bias[3] = -1
    equalized = equalize(module, [images()])
    assert same(module, equalized, images())
    assert torch.equal(equalized[0].weight[3], module[0].weight[3])
    assert torch.isfinite(equalized[2].weight).all()
    ratio = equalized[2].weight.abs().amax() / module[2].weight.abs().amax()
    assert 1 / LARGEST_SCALE < ratio < LARGEST_SCALE


class DependsOnData(nn.Module):
    """Takes a branch by a value."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_a_net_that_cannot_be_followed_is_said() -> None:
    with pytest.raises(ConvertError, match=r"^the net cannot be followed: "):
        equalize(DependsOnData(), [images()])


# --- bias correction


def means(module: nn.Module, path: str, examples: Tensor) -> Tensor:
    found = []
    hook = module.get_submodule(path).register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        module(examples)
    hook.remove()
    return found[0].movedim(1, -1).flatten(0, -2).mean(0)


def rounded(module: nn.Module) -> nn.Module:
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.data = round_weight(part.weight.data)
    return made


@pytest.mark.parametrize("made", [through_relu, through_norm, through_depthwise], ids=lambda made: made.__name__)
def test_every_channels_mean_is_where_it_was(made: Callable[[], nn.Module]) -> None:
    examples = images() + 1
    module = settled(made(), examples)
    for part in module.modules():  # outliers make steps wide
        if isinstance(part, nn.Conv2d):
            part.weight.data[:, 0, 0, 0] *= 30
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    corrected = correct_biases(module, [examples])
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            expected = means(module, path, examples)
            wrong = (means(rounded(module), path, examples) - expected).abs().max()
            left = (means(rounded(corrected), path, examples) - expected).abs().max()
            assert left < 0.02 * wrong, path
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_layers_without_a_bias_get_one() -> None:
    module = settled(through_norm(), images())
    corrected = correct_biases(module, [images()])
    assert module[0].bias is None and corrected[0].bias is not None
    assert corrected[0].bias.abs().max() > 0


def test_layers_in_float_have_no_error_to_correct() -> None:
    module = settled(through_relu(), images())
    untouched = correct_biases(module, [images()], in_float=["0", "2", "4"])
    assert same(module, untouched, images())
    assert torch.allclose(untouched[0].bias, module[0].bias, atol=1e-6)
    partly = correct_biases(module, [images()], in_float=["0"])
    assert torch.allclose(partly[0].bias, module[0].bias, atol=1e-6)
    assert not torch.allclose(partly[2].bias, module[2].bias, atol=1e-6)


def test_a_layer_that_computes_twice_keeps_its_bias() -> None:
    torch.manual_seed(0)
    module = Shared().eval()
    corrected = correct_biases(module, [images()])
    assert torch.equal(corrected.again.bias, module.again.bias)
    assert not torch.equal(corrected.first.bias, module.first.bias)


def test_no_more_examples_are_computed_at_once_than_memory_is_for() -> None:
    large = torch.zeros(1, 1).expand(300, 2**17)
    assert [len(one) for one in fewer([large])] == [64]
    assert [len(one) for one in fewer([large, large])] == [32, 32]
    assert [len(one) for one in fewer([torch.zeros(1, 1).expand(3, 2**24)])] == [1]


def test_a_net_of_tokens_with_two_outputs_computes_the_same_and_has_its_means() -> None:
    module: Any = encoder()
    tokens = torch.from_numpy(sentences())
    widen = module.encoder.embeddings.widen
    equalized: Any = equalize(module, [tokens])
    corrected: Any = correct_biases(module, [tokens])
    with torch.no_grad():
        for expected, found in zip(module(tokens), equalized(tokens), strict=True):
            assert torch.allclose(expected, found, atol=1e-3 * float(expected.abs().max()))
    assert not torch.equal(corrected.encoder.embeddings.widen.bias, widen.bias)
