"""Published measurements of networks on devices, with the kernels of each network; see data/latency/README.md."""

import ast
import csv
import gzip
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.kernels import Kernel, Kernels

QED = "https://github.com/qed-usc/mobile-ml-benchmark at 40ba833 (MIT): TFLite 2.1 to 2.15, PyTorch Mobile 2.0"
NCNN = "https://github.com/Tencent/ncnn at a4d2ea1d, benchmark/README.md (BSD-3)"
NAS_BENCH = "https://github.com/HayeonLee/HELP at 45f70eb (MIT), of HW-NAS-Bench v1 (Li et al. 2021, arXiv:2103.10584)"
XNNPACK = "https://github.com/google/XNNPACK at 75db3c0, README.md: MobileNet v1, 8 February 2022"
MOBILEONE = "https://github.com/apple/ml-mobileone at b7f4e6d, README.md: Core ML on an iPhone 12 Pro"


@dataclass
class Run:
    """A runtime, precision and set of cores on a device, with the nets that were measured there."""

    device: str
    runtime: str
    unit: str
    precision: str
    cores: str = ""
    threads: int = 1
    version: str = ""
    source: str = ""
    core: str = ""
    """The first core's name and clock in MHz, where they are known."""
    clock_mhz: float = 0.0
    ms: dict[str, float] = field(default_factory=dict)


# --- qed-usc/mobile-ml-benchmark: 86 CNNs on five phones, and four of them on two more

_QED_CORES = {
    "Google Pixel 4": {"large": ("cortex-a76", 2840), "med": ("cortex-a76", 2420), "small": ("cortex-a55", 1780)},
    "Samsung Galaxy A03s": {"large": ("cortex-a53", 2300), "small": ("cortex-a53", 1800)},
    "Xiaomi Mi 8 SE": {"large": ("cortex-a75", 2200), "small": ("cortex-a55", 1700)},
}
QED_FAMILIES = (
    "mobilenetv3", "mobilenetv2", "fdmobilenet", "mobilenet", "sepreresnet", "seresnet", "preresnet", "squeezeresnet",
    "squeezenet", "resnext", "resnet", "proxylessnas", "mnasnet", "hrnet", "efficientnet_edge",
)  # fmt: skip


def family_of(model: str) -> str:
    """The family of nets that a CNN of qed is of: variants of width and depth go together."""
    return next((name for name in QED_FAMILIES if model.startswith(name)), model)


def qed_nets(data: Path) -> dict[str, Kernels]:
    """The CNNs as TFLite executes them; element-wise operators, which its list lacks, are those of PyTorch's."""
    rows: dict[str, list[Kernel]] = defaultdict(list)
    for row in _table(data / "qed_gpu_ops_wide.csv.gz"):
        told = ast.literal_eval(row["feature"])
        rows[row["model"]] += list(
            _of_tflite(row["operation"], told) if row["runtime"] == "TFLite" else _of_torch(row["operation"], told)
        )
    return {model: Kernels.of(kernels) for model, kernels in rows.items()}


def _of_tflite(op: str, told: dict[str, Any]) -> Iterator[Kernel]:
    def number(key: str) -> int:
        return int(told[key]) if str(told.get(key, "")).isdecimal() else 0

    high, low, entering, side = number("Input_shape"), number("Output_shape"), number("Input_channel"), number("Kernel")
    stride, groups, leaving = number("Stride") or 1, max(1, number("Group")), number("Filter")
    if op == "FULLY_CONNECTED":
        size = entering * leaving
        yield Kernel("linear", op, size, entering, leaving, size, entering, leaving)
    elif op == "MEAN":
        yield Kernel("pool", op, 0, entering * high**2, entering, 0, entering, entering, high**2)
    elif "POOL" in op:
        yield Kernel(
            "pool", op, 0, entering * high**2, entering * low**2, 0, entering, entering, side**2, stride, low**2
        )
    elif op == "CONCATENATION":
        yield Kernel("move", op, 0, leaving * low**2, leaving * low**2, 0, 0, leaving, 1, 1, low**2)
    else:
        depthwise = op.startswith("DEPTHWISE")
        if depthwise:
            leaving = groups = entering
        if high > low * stride and (depthwise or side > 1):  # padded by an operator of its own
            yield Kernel(
                "move", "PAD", 0, entering * (high - side + 1) ** 2, entering * high**2, 0, 0, entering, 1, 1, high**2
            )
        weights = side**2 * entering * leaving // groups
        kind = "depthwise" if depthwise else "grouped" if groups > 1 else "conv" if side > 1 else "pointwise"
        kind = "linear" if kind == "pointwise" and low == 1 else kind
        yield Kernel(
            kind, op, weights * low**2, entering * high**2, leaving * low**2, weights, entering // groups, leaving,
            side**2, stride, low**2,
        )  # fmt: skip


def _of_torch(op: str, told: dict[str, Any]) -> Iterator[Kernel]:
    side, channels = int(told.get("input_shape") or 0), int(told.get("input_channel") or 0)
    count = channels * side**2
    if op == "aten::add":
        yield Kernel("elementwise", "ADD", 0, 2 * count, count, 0, 0, channels, 1, 1, side**2)
    elif op in {"aten::mul", "aten::hardswish"}:
        yield Kernel(
            "elementwise", "MUL", 0, count + (channels if "mul" in op else 0), count, 0, 0, channels, 1, 1, side**2
        )
    elif op == "aten::sigmoid":
        yield Kernel("activation", "LOGISTIC", 0, count, count, 0, 0, channels, 1, 1, side**2)
    elif "batchnorm" in op:
        for name in ("MUL", "ADD"):
            yield Kernel("elementwise", name, 0, count, count, 0, 0, channels, 1, 1, side**2)


def qed_runs(data: Path) -> list[Run]:
    """Latencies of the CNNs."""
    runs: dict[tuple[str, ...], Run] = {}
    for row in _table(data / "qed_mobile_e2e.csv.gz"):
        if row["family"] != "cnn_real":
            continue
        device, cores, gpu = row["device"], row["core_config"], row["processor"] == "gpu"
        runtime = {"TFLite": "tflite", "PyTorch Mobile": "pytorch-mobile"}[row["runtime"]]
        precision = row["precision"].partition("(")[0]
        key = (device, cores, runtime, precision)
        if key not in runs:
            kinds = re.findall(r"(\d)(large|med|small)", cores)
            core, clock = _QED_CORES.get(device, {}).get(kinds[0][1] if kinds else "", ("", 0))
            threads = 0 if gpu else sum(int(count) for count, _ in kinds)
            unit = "gpu" if gpu else "cpu"
            runs[key] = Run(device, runtime, unit, precision, cores, threads, "2.10", QED, core, clock)
        runs[key].ms[row["model"]] = float(row["latency_ms"])
    return list(runs.values())


# --- Tencent/ncnn: about thirty nets on a hundred boards

_NCNN_CLASSES = {
    **dict.fromkeys(("BinaryOp", "Eltwise", "ReLU", "HardSwish", "HardSigmoid", "BatchNorm"), "elementwise"),
    **dict.fromkeys(("Swish", "Softmax", "LRN"), "activation"),
    "Pooling": "pool",
}
_NOT_BOARDS = re.compile(
    r"EPYC|Ryzen [59]|Threadripper|AWS|Azure|Xeon|Core.? i\d|Hyper-V|MacBook|Desktop|Kun[Pp]eng|FT-2000\+|Snapdragon X"
)


def is_board(device: str) -> bool:
    """Whether a device of ncnn's list is a board or a phone, and no server, desktop or laptop."""
    return not _NOT_BOARDS.search(device)


def ncnn_nets(data: Path) -> dict[str, Kernels]:
    """The nets as ncnn executes them."""
    layers = json.loads((data / "layers" / "ncnn_bench_layers.json").read_text())
    return {model: Kernels.of(_of_ncnn(net["layers"])) for model, net in layers.items()}


def _of_ncnn(layers: list[dict[str, Any]]) -> Iterator[Kernel]:
    for layer in layers:
        op, reads, writes, side = layer["op"], layer["in_elems"], layer["out_elems"], layer["k"]
        made = layer["out_shapes"][0] if layer["out_shapes"] else []
        leaving = made[0] if made else 1
        positions = 1
        for size in made[1:]:
            positions *= size
        if op in {"Convolution", "ConvolutionDepthWise", "DeconvolutionDepthWise"}:
            entering, groups = layer["in_shapes"][0][0], layer["groups"] or 1
            kind = (
                "depthwise"
                if groups == entering > 1
                else "grouped"
                if groups > 1
                else "conv"
                if side > 1
                else "pointwise"
            )
            kind = "linear" if kind == "pointwise" and positions == 1 else kind
            yield Kernel(
                kind, op, layer["macs"], reads, writes, layer["weights"], entering // groups, leaving, side**2,
                layer["s"], positions,
            )  # fmt: skip
            if layer["act"] > 3:  # sigmoid and the like, in a pass of its own
                yield Kernel("activation", op, 0, writes, writes, positions=positions)
        elif op == "InnerProduct":
            yield Kernel("linear", op, layer["macs"], reads, writes, layer["weights"], reads, writes)
        else:
            kind = _NCNN_CLASSES.get(op, "move")
            yield Kernel(kind, op, 0, reads, writes, 0, 0, leaving, side**2, 1, positions)


def ncnn_runs(data: Path) -> list[Run]:
    """Latencies of the nets; a device that was run several times has several."""
    runs: dict[str, Run] = {}
    for row in _table(data / "ncnn_bench.csv.gz"):
        gpu = row["processor"] == "gpu"
        precision = "int8" if row["precision"] == "int8" else "fp16"
        key = f"{row['run_id']} {precision}"
        if key not in runs:
            core, clock = _first_core(row["device"])
            threads = 0 if gpu else int(row["threads"])
            runs[key] = Run(
                row["device"], "ncnn", "gpu" if gpu else "cpu", precision, f"powersave {row['powersave']}", threads,
                row["date"], NCNN, core, clock,
            )  # fmt: skip
        runs[key].ms[row["model"]] = float(row["latency_ms"])
    return list(runs.values())


def _first_core(device: str) -> tuple[str, float]:
    found = re.search(r"(?:Cortex.|Core )(A\d+\w*)\D{0,12}?\(?(?:ARMv\d\w*\) \()?(\d+(?:\.\d+)?) ?([GM])[Hh]z", device)
    if not found:
        return "", 0.0
    return f"cortex-{found[1].lower()}", float(found[2]) * (1000 if found[3] == "G" else 1)


# --- NAS-Bench-201: 900 cells, CIFAR-10, TFLite on a Raspberry Pi 4 and a Pixel 3

_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_CONVOLUTIONS = ("nor_conv_3x3", "nor_conv_1x1")


def cells(data: Path) -> dict[str, dict[str, float]]:
    """Architecture -> device -> milliseconds."""
    rows = _table(data / "nb201_900.csv.gz")
    return {row["arch_str"]: {device: float(row[device]) for device in ("raspi4", "pixel3")} for row in rows}


def cell_net(architecture: str) -> Kernels:
    """The net of a cell as TFLite executes it.

    A zeroed edge multiplies by 0, which the converter folds: branches that reach no output go. Where the sum at the end
    of such a branch has a second term of zeros, the converter does not see through it, and its convolution stays; so
    does one whose sum is zeroed twice. Where no path leads from the picture to the answer, what is left is the last
    cell on zeros. All three are seen in the latencies.
    """
    ops = [edge.split("~")[0] for part in architecture.split("+") for edge in part.strip("|").split("|")]
    if 3 not in _reached(ops, forward=True):
        return Kernels.of([*_cell(_pruned(ops), 64, 8), _fully_connected(64, 10)])
    ops = _executed(ops)
    rows, high = [_convolution(3, 16, 3, 1, 32)], 32
    for stage, channels in enumerate((16, 32, 64)):
        if stage:
            half = high // 2
            rows += [_convolution(channels // 2, channels, 3, 2, high), _convolution(channels, channels, 3, 1, half)]
            rows += [
                _pool(channels // 2, high, half),
                _convolution(channels // 2, channels, 1, 1, half),
                _add(channels, half),
            ]
            high = half
        for _ in range(5):
            rows += _cell(ops, channels, high)
    return Kernels.of([*rows, _pool(64, high, 1), _fully_connected(64, 10)])


def _reached(ops: list[str], forward: bool) -> set[int]:
    found = {0} if forward else {3}
    for node in (1, 2, 3) if forward else (2, 1, 0):
        for op, (source, target) in zip(ops, _EDGES, strict=True):
            end, other = (target, source) if forward else (source, target)
            if op != "none" and end == node and other in found:
                found.add(node)
    return found


def _pruned(ops: list[str]) -> list[str]:
    live = _reached(ops, forward=False)
    return [op if target in live else "none" for op, (_, target) in zip(ops, _EDGES, strict=True)]


def _executed(ops: list[str]) -> list[str]:
    kept = _pruned(ops)
    first, second, between, _, skipping, last = ops
    if last == "none":
        zeros = (second == "none", between == "none" or (first == "none" and between == "skip_connect"))
        if zeros[0] and not zeros[1] and between in _CONVOLUTIONS:
            kept[2], kept[0] = between, first
        if zeros[1] and not zeros[0] and second in _CONVOLUTIONS:
            kept[1] = second
    if first in _CONVOLUTIONS and kept[0] == "none" and between == skipping == "none":
        kept[0] = first
    return kept


def _cell(ops: list[str], channels: int, high: int) -> list[Kernel]:
    rows, terms = [], {1: 0, 2: 0, 3: 0}
    for op, (_, target) in zip(ops, _EDGES, strict=True):
        if op == "none":
            continue
        terms[target] += 1
        if op in _CONVOLUTIONS:
            rows.append(_convolution(channels, channels, int(op[-1]), 1, high))
        elif op == "avg_pool_3x3":
            rows.append(_pool(channels, high, high))
    return rows + [_add(channels, high) for count in terms.values() for _ in range(count - 1)]


def _convolution(entering: int, leaving: int, side: int, stride: int, high: int) -> Kernel:
    places, weights = (high // stride) ** 2, entering * leaving * side**2
    kind = "conv" if side > 1 else "pointwise"
    return Kernel(
        kind, "CONV_2D", weights * places, entering * high**2, leaving * places, weights, entering, leaving, side**2,
        stride, places,
    )  # fmt: skip


def _pool(channels: int, high: int, low: int) -> Kernel:
    window = 9 if high == low else (high // low) ** 2
    return Kernel(
        "pool", "AVERAGE_POOL_2D", 0, channels * high**2, channels * low**2, 0, channels, channels, window, 1, low**2
    )


def _add(channels: int, high: int) -> Kernel:
    return Kernel("elementwise", "ADD", 0, 2 * channels * high**2, channels * high**2, 0, 0, channels, 1, 1, high**2)


def _fully_connected(entering: int, leaving: int) -> Kernel:
    return Kernel(
        "linear", "FULLY_CONNECTED", entering * leaving, entering, leaving, entering * leaving, entering, leaving
    )


# --- XNNPACK's own page: one net on several boards

_XNNPACK_CORES = {
    "Raspberry Pi 2": ("cortex-a7", 900),
    "Raspberry Pi 3B+": ("cortex-a53", 1400),
    "Raspberry Pi 4 (ARM64)": ("cortex-a72", 1500),
    "Google Pixel 2": ("cortex-a73", 2350),
    "Google Pixel 3a": ("cortex-a75", 2000),
}


def xnnpack_runs(data: Path) -> list[Run]:
    """MobileNet v1, which TFLite with XNNPACK executes on boards and phones whose cores are known."""
    return [
        Run(
            row["device"], "tflite", "cpu", row["precision"], "", round(float(row["threads"])), row["runtime_version"],
            XNNPACK, *_XNNPACK_CORES[row["device"]], {"mobilenet_w1": float(row["latency_ms"])},
        )
        for row in published(data)
        if row["runtime"] == "XNNPACK" and row["device"] in _XNNPACK_CORES
    ]  # fmt: skip


# --- MobileOne (Vasu et al. 2023, arXiv:2206.04040), whose Core ML latencies its authors give

_MOBILEONE = {
    "mobileone_s0": (0.75, 1.0, 1.0, 2.0),
    "mobileone_s1": (1.5, 1.5, 2.0, 2.5),
    "mobileone_s2": (1.5, 2.0, 2.5, 4.0),
    "mobileone_s3": (2.0, 2.5, 3.0, 4.0),
}


def mobileone_nets() -> dict[str, Kernels]:
    """The nets without squeeze-and-excitation, re-parametrised: depthwise and pointwise convolutions alone."""
    return {name: Kernels.of(_mobileone(widths)) for name, widths in _MOBILEONE.items()}


def _mobileone(widths: tuple[float, ...]) -> Iterator[Kernel]:
    channels, high = min(64, int(64 * widths[0])), 112
    yield _convolution(3, channels, 3, 2, 224)
    for width, base, blocks in zip(widths, (64, 128, 256, 512), (2, 8, 10, 1), strict=True):
        for block in range(blocks):
            stride, leaving = 1 if block else 2, int(base * width)
            low = high // stride
            yield Kernel(
                "depthwise", "conv", 9 * channels * low**2, channels * high**2, channels * low**2, 9 * channels, 1,
                channels, 9, stride, low**2,
            )  # fmt: skip
            yield _convolution(channels, leaving, 1, 1, low)
            channels, high = leaving, low
    yield _pool(channels, high, 1)
    yield _fully_connected(channels, 1000)


def published(data: Path) -> list[dict[str, str]]:
    """Rows of projects' own pages."""
    return list(_table(data / "published_tables.csv"))


def _table(path: Path) -> Iterator[dict[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    yield from csv.DictReader(io.StringIO(content.decode()))
