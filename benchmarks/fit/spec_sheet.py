"""How far the spec-sheet cost model is off on published latencies of MobileNets.

usage: python benchmarks/fit/spec_sheet.py FOLDER

FOLDER holds published_tables.csv and qed_mobile_e2e.csv.gz. The efficiencies in edgekd/cost/spec_sheet.py were chosen
on the rows of MobileNetV1; those of MobileNetV2 are the hold-out.
"""

import csv
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from edgekd import cost
from edgekd.nets import Anatomy, anatomy
from edgekd.plugins import find
from edgekd.shipped import load_target
from edgekd.specs import Cluster, Target


class Row(NamedTuple):
    """A published latency."""

    target: Target
    version: int
    width: float
    size: int
    precision: str
    published_ms: float
    source: str


def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    """Convolution, norm, activation."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    ]


def mobilenet_v1(width: float) -> nn.Module:
    """Howard et al. 2017, table 1."""
    channels = [int(c * width) for c in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers = convolution(3, channels[0], 3, 2)
    for inputs, outputs, stride in zip(channels, channels[1:], strides, strict=False):
        layers += [*convolution(inputs, inputs, 3, stride, inputs), *convolution(inputs, outputs, 1, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 1000))


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        grow = convolution(inputs, hidden, 1, 1) if expansion > 1 else []
        self.layers = nn.Sequential(
            *grow, *convolution(hidden, hidden, 3, stride, hidden), *convolution(hidden, outputs, 1, 1)[:2]
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the input where shapes allow."""
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet_v2(width: float) -> nn.Module:
    """Sandler et al. 2018, table 2."""

    def of(channels: float) -> int:
        rounded = max(8, int(channels + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels else rounded

    inputs = of(32 * width)
    layers = convolution(3, inputs, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, stride in table:
        for repeat in range(repeats):
            layers.append(Block(inputs, of(channels * width), stride if repeat == 0 else 1, expansion))
            inputs = of(channels * width)
    last = of(1280 * max(1.0, width))
    layers += convolution(inputs, last, 1, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 1000))


def examined(version: int, width: float, size: int) -> Anatomy:
    """Anatomy of a MobileNet."""
    with torch.device("meta"):
        return anatomy(mobilenet_v1(width) if version == 1 else mobilenet_v2(width), (3, size, size))


def on(name: str, cluster: Cluster | None = None, threads: int = 1) -> Target:
    """A shipped target, with another cluster or number of threads."""
    target = load_target(name)
    device = msgspec.structs.replace(target.device, clusters=(cluster or target.device.clusters[0],))
    return msgspec.structs.replace(target, device=device, threads=threads)


def rows(folder: Path) -> Iterator[Row]:
    """The published rows of devices that are, or nearly are, shipped targets."""
    a53 = Cluster(core="cortex-a53", count=4, clock_mhz=1400, l1d_bytes=32768, l2_bytes=524288)
    boards = {
        "Raspberry Pi 4 (ARM64)": on("raspberry-pi-4", threads=4),
        "Raspberry Pi 3B+": on("raspberry-pi-zero-2", a53, threads=4),
    }
    with (folder / "published_tables.csv").open(encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            if row["device"] in boards and row["model"] == "mobilenet_v1" and row["runtime"] == "XNNPACK":
                target = boards[row["device"]]
                yield Row(target, 1, 1.0, 224, row["precision"], float(row["latency_ms"]), row["device"])
    with gzip.open(folder / "qed_mobile_e2e.csv.gz", "rt", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            wanted = row["device"] == "Google Pixel 4" and row["core_config"] == "1large" and row["runtime"] == "TFLite"
            family, _, suffix = row["model"].partition("_")
            version = {"mobilenet": 1, "mobilenetv2": 2}.get(family)
            width = {"w1": 1.0, "w3d4": 0.75, "wd2": 0.5, "wd4": 0.25}.get(suffix)
            if wanted and version and width and row["precision"] in {"fp32", "int8"}:
                yield Row(
                    on("android-high"), version, width, 224, row["precision"], float(row["latency_ms"]), row["device"]
                )


def main(folder: Path) -> None:
    """Print the table and the error of each half."""
    model = find(cost, "spec_sheet")
    errors: dict[int, list[float]] = {1: [], 2: []}
    print("| device | net | precision | published ms | estimated ms | factor |\n|-|-|-|-|-|-|")
    for row in rows(folder):
        found = model.estimate(examined(row.version, row.width, row.size), row.target, row.precision).latency_ms
        errors[row.version].append(found.value / row.published_ms)
        net = f"MobileNetV{row.version} {row.width}"
        factor = f"{found.value / row.published_ms:.2f}"
        print(f"| {row.source} | {net} | {row.precision} | {row.published_ms:.1f} | {found.value:.1f} | {factor} |")
    for version, factors in errors.items():
        if factors:
            mape = np.mean(np.abs(np.array(factors) - 1))
            between = f"factors {min(factors):.2f} to {max(factors):.2f}"
            print(f"\nMobileNetV{version}: {len(factors)} rows, mean error {mape:.0%}, {between}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
