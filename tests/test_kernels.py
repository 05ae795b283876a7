"""Features of kernels: what a million of each thing is, for processors and for GPUs."""

import numpy as np
import pytest

from edgekd.kernels import FEATURES, Kernel, Kernels, features, totals


def column(kernel: Kernel, name: str, unit: str = "cpu", winograd: bool = False) -> float:
    return float(features(Kernels.of([kernel]), unit, winograd)[0, FEATURES.index(name)])


CONV = Kernel("conv", "CONV_2D", 9e6, 1000, 2000, 144, 16, 16, 9, 1, 64)


def test_a_convolution_is_costed_by_tiles_of_its_channels() -> None:
    narrow = Kernel("pointwise", "CONV_2D", macs=1e6, inside=10, outside=4, positions=100)
    assert column(CONV, "dense") == 9 and column(narrow, "dense") == 2  # 4 channels fill half of a tile of 8
    assert column(narrow, "dense", "gpu") == pytest.approx(1.2)  # 10 channels fill 12 of tiles of 4
    assert column(narrow, "narrow") == 1 and column(CONV, "narrow") == 9


def test_winograd_is_for_runtimes_that_have_it_and_for_its_window_alone() -> None:
    assert column(CONV, "winograd") == 0 and column(CONV, "winograd", winograd=True) == 9
    strided = Kernel("conv", "CONV_2D", 9e6, inside=16, outside=16, window=9, stride=2, positions=64)
    assert column(strided, "winograd", winograd=True) == 0 and column(strided, "dense", winograd=True) == 9
    assert column(CONV, "winograd", "gpu", winograd=True) == 0, "too few channels for a GPU"


def test_winograd_computes_whole_tiles_of_outputs() -> None:
    def costs(side: int) -> float:
        conv = Kernel("conv", "CONV_2D", 1e4 * side**2, inside=16, outside=16, window=9, positions=side**2)
        return column(conv, "winograd", winograd=True)

    assert [costs(side) for side in (1, 3, 4, 5, 8)] == pytest.approx([0.16, 0.16, 0.16, 0.64, 0.64])


def test_each_class_has_its_features_and_a_call() -> None:
    for kind, name in {"elementwise": "elementwise", "pool": "pool", "move": "move", "other": "other"}.items():
        assert column(Kernel(kind, "X", reads=3e6, writes=1e6, positions=5), name) == 4
    assert column(Kernel("linear", "FC", 2e6, 1, 1, 2e6), "linear") == 2
    assert column(Kernel("linear", "FC"), "calls_single") == 1 and column(CONV, "calls") == 1
    grouped = Kernel("grouped", "CONV_2D", 8e6, inside=4, outside=32, window=9, positions=10)
    assert column(grouped, "grouped") == 16 and column(grouped, "dense") == 8


def test_a_gpu_fuses_what_is_elementwise() -> None:
    add = Kernel("elementwise", "ADD", reads=2e6, writes=1e6, positions=100)
    assert column(add, "calls") == 1 and column(add, "calls", "gpu") == 0
    assert column(add, "elementwise", "gpu") == 2, "its second term is still read"
    assert column(Kernel("move", "PAD", reads=1e6, writes=1e6, positions=9), "move", "gpu") == 0


def test_totals_of_many_nets_are_the_sums_of_each() -> None:
    random = np.random.default_rng(0)
    kinds = ("conv", "pointwise", "depthwise", "grouped", "linear", "pool", "elementwise")
    nets = [
        Kernels.of(Kernel(kinds[i % 7], "X", *random.integers(1, 1000, 9).tolist()) for i in range(count))
        for count in (3, 1, 12)
    ]
    for unit in ("cpu", "gpu"):
        found = totals(nets, unit, winograd=True)
        for row, net in zip(found, nets, strict=True):
            np.testing.assert_allclose(row, features(net, unit, winograd=True).sum(axis=0))
