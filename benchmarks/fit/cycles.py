"""Fit the cycle models of emulated cores on published latencies of nets that are built, emulated and counted here.

usage: python benchmarks/fit/cycles.py nets DATA WORK     build the nets as .tflite, below WORK
       python benchmarks/fit/cycles.py count DATA WORK    count what an inference of each executes; goes on where it was
       python benchmarks/fit/cycles.py fit DATA WORK      write edgekd/emulation/cycles/*.toml, print the tables

DATA holds qed_mobile_e2e.csv.gz, nb201_900.csv.gz and published_tables.csv. `nets` needs tensorflow, and the very nets
that were measured: `pip install --no-deps --target FOLDER tf2cv==0.0.18 tf-keras==2.21.0` and PYTHONPATH=FOLDER.
`count` needs the cores: `edgekd device prepare qemu:cortex-a53` and so on; it takes an hour.
"""

import csv
import gzip
import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K")

ENGINE: Final = "litert"
BUILT_IN: Final = "litert_builtin"
"""LiteRT without XNNPACK, as TensorFlow Lite was in 2020, when NAS-Bench-201 was measured."""
MODELS: Final = Path(__file__).parents[2] / "edgekd" / "emulation" / "cycles"
FAMILIES: Final = {  # nets of a family are left out together, for they are alike
    "mobilenet": "mobilenet_w1 mobilenet_wd2 mobilenet_wd4 mobilenetb_w3d4 fdmobilenet_w1 fdmobilenet_wd2",
    "mobilenetv2": "mobilenetv2_w1 mobilenetv2_wd2 mobilenetv2b_w3d4 mnasnet_b1",
    "mobilenetv3": "mobilenetv3_large_w1 mobilenetv3_large_wd2 mobilenetv3_small_w1 mobilenetv3_small_w5d4 mnasnet_a1",
    "squeezenet": "squeezenet_v1_1 squeezeresnet_v1_1",
    "resnet": "resnet10 resnet18_wd2 resnet18_wd4 preresnet18_wd4 seresnet10",
    "branches": "dla46c peleenet",
}
"""Left out: nets with convolutions in groups and depthwise ones of 7x7 (ResNeXt, ProxylessNAS), which the runtime that
is emulated executes by other code than the one that was measured."""
LEAST_NETS: Final = 5
"""From which on an error can be told of them."""
SPACE: Final = 40
"""Nets of NAS-Bench-201."""
PENALTY: Final = 0.001
"""Of a cost that is all off its prior, against relative errors."""


class Place(NamedTuple):
    """Where latencies were measured."""

    core: str
    device: str
    configuration: str
    """As the published rows call it."""
    clock_mhz: float
    threads: int


PLACES: Final = (
    Place("cortex-a76", "Google Pixel 4", "1large", 2840, 1),
    Place("cortex-a76", "Google Pixel 4", "1med", 2420, 1),
    Place("cortex-a76", "Google Pixel 4", "2med", 2420, 2),
    Place("cortex-a76", "Google Pixel 4", "3med", 2420, 3),
    Place("cortex-a53", "Samsung Galaxy A03s", "1large", 2300, 1),
    Place("cortex-a53", "Samsung Galaxy A03s", "1small", 1800, 1),
    Place("cortex-a53", "Samsung Galaxy A03s", "2large", 2300, 2),
    Place("cortex-a53", "Samsung Galaxy A03s", "4large", 2300, 4),
    Place("cortex-a53", "Raspberry Pi 3B+", "XNNPACK", 1400, 4),
    Place("cortex-a72", "Raspberry Pi 4 (ARM64)", "XNNPACK", 1500, 4),
    Place("cortex-a72", "Raspberry Pi 4", "HW-NAS-Bench", 1500, 1),
)

PRIORS: Final[dict[str, dict[str, float]]] = {
    # cycles an instruction of full width at most throughput: Arm's Software Optimization Guides of the Cortex-A72 (UAN
    # 0016) and A76 (PJDOC-466751330); of the A53, which has none, its two issues a cycle and its datapath of 64 bits
    "cortex-a53": {
        "fma": 2, "vector_float": 2, "float": 1, "vector": 1, "vector_multiply": 2, "widening_multiply": 1, "dot": 2,
        "vector_load": 2, "vector_store": 2, "load": 1, "store": 1, "prefetch": 1, "integer": 0.5, "multiply": 1,
        "branch": 1, "": 1,
    },
    "cortex-a72": {
        "fma": 1, "vector_float": 1, "float": 0.5, "vector": 0.5, "vector_multiply": 2, "widening_multiply": 1,
        "dot": 1, "vector_load": 1, "vector_store": 1, "load": 1, "store": 1, "prefetch": 1, "integer": 0.5,
        "multiply": 1, "branch": 1, "": 1,
    },
    "cortex-a76": {
        "fma": 0.5, "vector_float": 0.5, "float": 0.5, "vector": 0.5, "vector_multiply": 1, "widening_multiply": 1,
        "dot": 0.5, "vector_load": 0.5, "vector_store": 1, "load": 0.5, "store": 1, "prefetch": 0.5, "integer": 0.33,
        "multiply": 1, "branch": 1, "": 1,
    },
}  # fmt: skip


class Observation(NamedTuple):
    """A published latency, and what the net was counted to execute."""

    place: Place
    net: str
    family: str
    precision: str
    published_ms: float
    instructions: Mapping[str, float]
    misses: Mapping[str, float]


# --- nets


def build(data: Path, work: Path) -> None:
    """Write every net, in float and in integers, as LiteRT executes it."""
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf
    from tf2cv.model_provider import get_model

    (work / "nets").mkdir(parents=True, exist_ok=True)
    for name in " ".join(FAMILIES.values()).split():
        if not _file(work, name, "int8").exists():
            net = get_model(name, pretrained=False, data_format="channels_last")
            net.build((1, 224, 224, 3))
            _write(net, (1, 224, 224, 3), work, name, ("fp32", "int8"))
            tf.keras.backend.clear_session()
    for name, architecture, _ in space(data):
        if not _file(work, name, "fp32").exists():
            _write(nas_bench_201(architecture), (1, 32, 32, 3), work, name, ("fp32",))
            tf.keras.backend.clear_session()


def _write(net: Any, shape: tuple[int, ...], work: Path, name: str, precisions: Iterable[str]) -> None:
    import tensorflow as tf

    numbers = np.random.default_rng(0)
    spec = tf.TensorSpec(shape, tf.float32)
    function = tf.function(lambda images: net(images, training=False)).get_concrete_function(spec)
    for precision in precisions:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], net)
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([numbers.random(shape, np.float32)] for _ in range(2))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        _file(work, name, precision).write_bytes(converter.convert())
        print(name, precision, flush=True)


def _file(work: Path, name: str, precision: str) -> Path:
    return work / "nets" / f"{name}-{precision}.tflite"


EDGES: Final = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Of a cell of NAS-Bench-201, from node to node, in the order that its strings name them."""


def operations(architecture: str) -> list[str]:
    """What a cell's string puts on each edge: "none", "skip_connect", "nor_conv_3x3" ..."""
    return [edge.split("~")[0] for node in architecture.split("+") for edge in node.strip("|").split("|")]


def reached(chosen: Sequence[str], first: int, forward: bool) -> set[int]:
    """Nodes that something comes to from the first one, or that come to it."""
    found = {first}
    for _ in EDGES:
        for operation, (source, sink) in zip(chosen, EDGES, strict=True):
            here, there = (source, sink) if forward else (sink, source)
            if operation != "none" and here in found:
                found.add(there)
    return found


def is_whole(chosen: Sequence[str]) -> bool:
    """True for a cell of which nothing is computed from nodes that have no input, for who would compute that?"""
    fed, used = reached(chosen, 0, forward=True), reached(chosen, 3, forward=False)
    edges = [edge for operation, edge in zip(chosen, EDGES, strict=True) if operation != "none"]
    return 3 in fed and all(source in fed for source, sink in edges if sink in used)


def space(data: Path) -> list[tuple[str, str, float]]:
    """Name, architecture and milliseconds of some nets of NAS-Bench-201 on a Raspberry Pi 4."""
    with gzip.open(data / "nb201_900.csv.gz", "rt") as opened:
        rows = list(csv.DictReader(opened))
    random.Random(0).shuffle(rows)
    whole = [row for row in rows if is_whole(operations(row["arch_str"]))]
    return [(f"nb201_{row['idx']}", row["arch_str"], float(row["raspi4"])) for row in whole[:SPACE]]


def nas_bench_201(architecture: str) -> Any:
    """Dong and Yang 2020, arXiv:2001.00326, figure 1: three stages of five cells, of 16, 32 and 64 channels."""
    from tensorflow.keras import Model, layers

    def convolved(x: Any, channels: int, kernel: int, stride: int = 1) -> Any:
        x = layers.Conv2D(channels, kernel, stride, "same", use_bias=False)(layers.ReLU()(x))
        return layers.BatchNormalization()(x)

    def cell(x: Any, channels: int) -> Any:
        nodes = {0: x}
        used = reached(chosen, 3, forward=False)
        for operation, (source, sink) in zip(chosen, EDGES, strict=True):
            if operation == "none" or source not in nodes or sink not in used:
                continue
            made = nodes[source]
            if operation.startswith("nor_conv"):
                made = convolved(made, channels, int(operation[-1]))
            elif operation == "avg_pool_3x3":
                made = layers.AveragePooling2D(3, 1, "same")(made)
            nodes[sink] = layers.Add()([nodes[sink], made]) if sink in nodes else made
        return nodes[3]

    chosen = operations(architecture)
    images = layers.Input((32, 32, 3), batch_size=1)
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, 1, "same", use_bias=False)(images))
    for channels in (16, 32, 64):
        if channels > 16:
            smaller = layers.Conv2D(channels, 1, use_bias=False)(layers.AveragePooling2D(2, 2)(x))
            x = layers.Add()([convolved(convolved(x, channels, 3, 2), channels, 3), smaller])
        for _ in range(5):
            x = cell(x, channels)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    return Model(images, layers.Dense(10)(x))


# --- counts


def count_all(data: Path, work: Path) -> None:
    """Count an inference of each net on each core that it was measured on; kept in counts.jsonl, a line a net."""
    kept = work / "counts.jsonl"
    done = {(row["net"], row["precision"], row["core"], row["engine"]) for row in _lines(kept)}
    for key in wanted(data):
        if key in done:
            continue
        net, precision, core, engine = key
        found = count(_file(work, net, precision), engine, core)
        with kept.open("a") as opened:
            row = {"net": net, "precision": precision, "core": core, "engine": engine}
            opened.write(json.dumps({**row, **found}) + "\n")
        print(*key, f"{found['instructions']['total'] / 1e6:.1f} million instructions", flush=True)


def wanted(data: Path) -> Iterator[tuple[str, str, str, str]]:
    """Net, precision, core and engine of each count."""
    for name in " ".join(FAMILIES.values()).split():
        for core in ("cortex-a53", "cortex-a76"):
            for precision in ("int8", "fp32"):
                yield name, precision, core, ENGINE
    for precision in ("int8", "fp32"):
        yield "mobilenet_w1", precision, "cortex-a72", ENGINE
    for name, _, _ in space(data):
        yield name, "fp32", "cortex-a72", BUILT_IN


def count(model: Path, engine: str, core: str) -> dict[str, Any]:
    """Instructions by kind and missed lines by cache of one inference, after two that nobody counts."""
    from edgekd import devices, engines
    from edgekd.measure import means
    from edgekd.tensors import drawn, write_inputs

    with (
        tempfile.TemporaryDirectory() as scratch,
        devices.start(f"qemu:{core}", engines.GUEST, engines.path(engine), Path(scratch)) as connection,
    ):
        loaded = connection.ask({"do": "load", "model": connection.put(model), "threads": 1}, 600)
        inputs = Path(scratch) / "inputs.npz"
        write_inputs(inputs, *drawn(loaded["inputs"], 2).arrays)
        told = connection.ask({"do": "count", "inputs": connection.put(inputs), "count": 1}, 1800)
    found = means(told["inferences"], told["empty"])
    return {"instructions": found["instructions"], "misses": found["cache_misses"]}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- fit


def observations(data: Path, work: Path) -> Iterator[Observation]:
    """Everything that was both published and counted."""
    counts = {(row["net"], row["precision"], row["core"]): row for row in _lines(work / "counts.jsonl")}
    for place, net, family, precision, published_ms in published(data):
        row = counts.get((net, precision, place.core))
        if row:
            yield Observation(place, net, family, precision, published_ms, row["instructions"], row["misses"])


def published(data: Path) -> Iterator[tuple[Place, str, str, str, float]]:
    """Place, net, family, precision and milliseconds."""
    families = {net: family for family, nets in FAMILIES.items() for net in nets.split()}
    places = {(place.device, place.configuration): place for place in PLACES}
    with gzip.open(data / "qed_mobile_e2e.csv.gz", "rt") as opened:
        for row in csv.DictReader(opened):
            place = places.get((row["device"], row["core_config"]))
            if place and row["model"] in families and (row["runtime"], row["runtime_version"]) == ("TFLite", "2.10"):
                yield place, row["model"], families[row["model"]], row["precision"], float(row["latency_ms"])
    with (data / "published_tables.csv").open() as table:
        for row in csv.DictReader(table):
            place = places.get((row["device"], "XNNPACK"))
            if place and row["source"] == "google/XNNPACK:README.md" and row["model"] == "mobilenet_v1":
                yield place, "mobilenet_w1", "mobilenet", row["precision"], float(row["latency_ms"])
    for name, _, published_ms in space(data):
        yield places["Raspberry Pi 4", "HW-NAS-Bench"], name, name, "fp32", published_ms


class Costs(NamedTuple):
    """What is fitted for a core: non-negative, in cycles but for the last, which is in nanoseconds."""

    names: tuple[str, ...]
    """Kinds of instructions, caches, and "memory"."""
    values: NDArray[np.float64]
    serial: float
    shared: float


def names_of(core: str, some: Observation) -> tuple[str, ...]:
    """Of the costs of a core."""
    kinds = [kind for kind in some.instructions if kind != "total"]
    return (*kinds, *list(some.misses)[:-1], "memory")


def prior_of(core: str, names: Sequence[str]) -> NDArray[np.float64]:
    """What costs are taken for where no net tells."""
    usual = PRIORS[core] | {"L1": 8.0, "L2": 20.0, "memory": 40.0}
    return np.array([usual.get(name, usual[""]) for name in names])


def shares(one: Observation, serial: float, shared: float) -> NDArray[np.float64]:
    """Of the published time, what a cycle (or a nanosecond) of each cost comes to."""
    missed = list(one.misses.values())
    counted = [number for kind, number in one.instructions.items() if kind != "total"]
    counted += [lines - further for lines, further in zip(missed, missed[1:], strict=False)]
    threads = one.place.threads
    computing = ((1 - serial) / threads + serial) / (one.place.clock_mhz * 1e3)
    waiting = max(1 / threads, shared) * 1e-6
    return np.array([*(number * computing for number in counted), missed[-1] * waiting]) / one.published_ms


def fitted(core: str, found: Sequence[Observation], serial: float, shared: float) -> Costs:
    """The costs that make the squared relative errors least, drawn to their priors.

    One thread tells most of them; several are asked only in a precision in which nobody published one thread.
    """
    from scipy.optimize import nnls

    alone = {one.precision for one in found if one.place.threads == 1}
    found = [one for one in found if one.place.threads == 1 or one.precision not in alone]
    names = names_of(core, found[0])
    prior = prior_of(core, names)
    weights = np.array([_weight(one, found) for one in found]) ** 0.5
    rows = np.array([shares(one, serial, shared) * prior for one in found]) * weights[:, None]
    whole = rows.sum(1)
    by_all = weights @ whole / (whole @ whole)  # no core sustains its best throughput
    pull = (PENALTY * (weights @ weights) / len(prior)) ** 0.5
    left = np.vstack([rows * by_all, np.eye(len(prior)) * pull])
    scale, _ = nnls(left, np.concatenate([weights, np.full(len(prior), pull)]))
    return Costs(names, scale * prior * by_all, serial, shared)


def _weight(one: Observation, found: Sequence[Observation]) -> float:
    """Places and precisions count the same, however many nets were measured there."""
    alike = sum(other.place == one.place and other.precision == one.precision for other in found)
    return 1 / max(alike, LEAST_NETS)


def best(core: str, found: Sequence[Observation]) -> Costs:
    """The same, with what threads do not shorten chosen by what several were published to take."""
    tried = [
        fitted(core, found, float(serial), float(shared))
        for serial in np.linspace(0, 0.4, 9)
        for shared in np.linspace(0.1, 1, 10)
    ]
    weights = np.array([_weight(one, found) for one in found])
    return min(tried, key=lambda costs: float(weights @ np.abs(np.log(ratios(costs, found)))))


def ratios(costs: Costs, found: Sequence[Observation]) -> NDArray[np.float64]:
    """What the costs say, as a share of what was published."""
    return np.array([shares(one, costs.serial, costs.shared) @ costs.values for one in found])


def left_out(core: str, found: Sequence[Observation], costs: Costs) -> NDArray[np.float64]:
    """The same, of each net by costs that were fitted without its family."""
    told = np.zeros(len(found))
    for family in {one.family for one in found}:
        seen = [one for one in found if one.family != family]
        without = fitted(core, seen, costs.serial, costs.shared)
        for index, one in enumerate(found):
            if one.family == family:
                told[index] = ratios(without, [one])[0]
    return told


def by_one_anchor(
    core: str, found: Sequence[Observation], costs: Costs
) -> tuple[list[Observation], NDArray[np.float64]]:
    """Nets by costs that know of MobileNetV1 in integers alone, as on a core where no more was published."""
    seen = [one for one in found if one.precision == "fp32" or one.net == "mobilenet_w1"]
    others = [one for one in found if one.precision == "int8" and one.net != "mobilenet_w1"]
    others += [one for one in found if one.precision == "fp32" and one.place.threads > 1]
    if len({one.net for one in others}) < LEAST_NETS:
        return [], np.zeros(0)
    return others, ratios(fitted(core, seen, costs.serial, costs.shared), others)


class Off(NamedTuple):
    """How far a model is off."""

    nets: int
    mean: float
    low: float
    high: float


def off(found: Sequence[Observation], told: NDArray[np.float64]) -> Off:
    """Of ratios told / published; nine of ten published latencies are `low` to `high` times what is told."""
    weights = np.array([_weight(one, found) for one in found])
    low, high = np.quantile(1 / told, [0.05, 0.95], weights=weights, method="inverted_cdf")
    mean = np.average(np.abs(told - 1), weights=weights)
    return Off(len({one.net for one in found}), float(mean), float(low), float(high))


def write(core: str, costs: Costs, errors: Mapping[str, Off], found: Sequence[Observation]) -> Path:
    """A core's model as a file of edgekd."""
    totals = [one.instructions["total"] / 1e6 for one in found]
    fitted_on = FITTED_ON[core].format(nets=len({one.net for one in found}))
    levels = [name for name in costs.names if name.startswith("L")]
    kinds = [name for name in costs.names if name not in {*levels, "memory"}]
    value = dict(zip(costs.names, costs.values.tolist(), strict=True))
    lines = [
        "# Written by benchmarks/fit/cycles.py.",
        "schema = 1",
        f'core = "{core}"',
        f"memory_ns = {value['memory']:.4g}",
        f"serial = {costs.serial:.3g}",
        f"shared = {costs.shared:.3g}",
        f'fitted_on = "{fitted_on}"',
        f"millions = [{math.floor(min(totals))}, {math.ceil(max(totals))}]",
        "\n[cycles]",
        *(f"{kind} = {value[kind]:.4g}" for kind in kinds),
        "\n[miss_cycles]",
        *(f"{level} = {value[level]:.4g}" for level in levels),
    ]
    for case, one in errors.items():
        lines += [f"\n[errors.{case}]", f"nets = {one.nets}", f"mean = {one.mean:.3g}"]
        lines += [f"low = {one.low:.3g}", f"high = {one.high:.3g}"]
    lines += ["\n[sources]", *(f'{name} = "{SOURCES[name]}"' for name in WHOSE[core])]
    path = MODELS / f"{core}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


SOURCES: Final = {
    "qed": "qed-usc/mobile-ml-benchmark at 40ba833, TFLite 2.10, MIT",
    "xnnpack": "google/XNNPACK README at 75db3c093b6d",
    "nas_bench": "HW-NAS-Bench (arXiv:2103.10584) by HayeonLee/HELP at 45f70eb, MIT",
}
FITTED_ON: Final = {
    "cortex-a53": "{nets} nets on a Samsung Galaxy A03s (TFLite 2.10) and a Raspberry Pi 3B+",
    "cortex-a72": "{nets} nets on a Raspberry Pi 4 (in floats; in integers MobileNetV1 alone)",
    "cortex-a76": "{nets} nets on a Google Pixel 4 (TFLite 2.10)",
}
WHOSE: Final = {"cortex-a53": ("qed", "xnnpack"), "cortex-a72": ("xnnpack", "nas_bench"), "cortex-a76": ("qed",)}


def fit(data: Path, work: Path) -> None:
    """Fit each core, write its model, print how far it is off."""
    found = list(observations(data, work))
    by_core = {core: [one for one in found if one.place.core == core] for core in PRIORS}
    costs = {core: best(core, some) for core, some in by_core.items()}
    print("| core | device | threads | precision | nets | mean error | nine of ten published / told |\n|-|-|-|-|-|-|-|")
    errors = {core: _errors(core, some, costs[core]) for core, some in by_core.items()}
    known = [one for core in errors for one in errors[core].values()]
    for core, some in by_core.items():
        whole = _anchored(by_core, costs) | errors[core]
        print(f"\n{write(core, costs[core], whole, some).name}")
        for case, one in whole.items():
            whose = "" if one in known else ", of other cores"
            print(f"  {case}: {one.mean:.1%}, {one.low:.2f} to {one.high:.2f}{whose}")


def _errors(core: str, some: Sequence[Observation], costs: Costs) -> dict[str, Off]:
    """How far a core is off on nets of families that its costs do not know, where enough of them were published."""
    told = left_out(core, some, costs)
    for (place, precision), each in _apart(some, told, lambda one: (one.place, one.precision)).items():
        _print(place, precision, *each)
    found = {case: off(*each) for case, each in _apart(some, told, case_of).items()}
    return {case: one for case, one in sorted(found.items()) if one.nets >= LEAST_NETS}


def _anchored(by_core: Mapping[str, Sequence[Observation]], costs: Mapping[str, Costs]) -> dict[str, Off]:
    """How far the worst of the cores is off in each case where its costs know of one net in integers alone."""
    tried: dict[str, list[Off]] = {}
    for core, some in by_core.items():
        others, told = by_one_anchor(core, some, costs[core])
        for case, each in _apart(others, told, case_of).items():
            tried.setdefault(case, []).append(off(*each))
    return {
        case: Off(1, max(one.mean for one in some), min(one.low for one in some), max(one.high for one in some))
        for case, some in sorted(tried.items())
    }


def case_of(one: Observation) -> str:
    """What errors are told apart by: "float_one" for arithmetic in floats by one thread."""
    arithmetic = "float" if one.precision == "fp32" else "integer"
    return f"{arithmetic}_{'one' if one.place.threads == 1 else 'several'}"


def _apart(
    found: Sequence[Observation], told: NDArray[np.float64], by: Callable[[Observation], K]
) -> dict[K, tuple[list[Observation], NDArray[np.float64]]]:
    """Observations and what was told of them, by a key."""
    indices: dict[K, list[int]] = {}
    for index, one in enumerate(found):
        indices.setdefault(by(one), []).append(index)
    return {key: ([found[index] for index in some], told[some]) for key, some in indices.items()}


def _print(place: Place, precision: str, found: Sequence[Observation], told: NDArray[np.float64]) -> None:
    one = off(found, told)
    where = f"{place.core} | {place.device}, {place.configuration} | {place.threads} | {precision}"
    print(f"| {where} | {one.nets} | {one.mean:.1%} | {one.low:.2f} to {one.high:.2f} |")


def main(verb: str, data: str, work: str) -> None:
    """Do one of the three."""
    {"nets": build, "count": count_all, "fit": fit}[verb](Path(data), Path(work))


if __name__ == "__main__":
    main(*sys.argv[1:])
