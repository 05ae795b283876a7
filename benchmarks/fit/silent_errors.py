"""What TFLite runtimes refuse or answer wrongly in which precision: edgekd/runtimes/tflite-failures.toml.

usage: python benchmarks/fit/silent_errors.py FOLDER

The versions that a quantized file says are those of the float file, so they do not tell. This writes a small net for
each kind of operator into FOLDER, in float32 and in the precisions that AI Edge Quantizer makes, executes each on every
release of operator_versions.py, and holds the answers against those of the newest LiteRT to the float32 net. All values
are printed; what lies below LEAST_SQNR_DB, or is refused, is written. Needs the extra tflite and a package index.
"""

import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from operator_versions import RUNTIMES, TFLITE, Release
from torch import Tensor, nn
from torch.nn import functional

from edgekd import devices, engines, environments
from edgekd.errors import MeasureError
from edgekd.files import write_text
from edgekd.parity import sqnr_db
from edgekd.plugins import find

EXAMPLES = 16
LEAST_SQNR_DB = {"fp32": 100.0, "fp16": 50.0, "weights": 25.0, "dynamic": 20.0, "int8": 15.0, "int16": 25.0}
"""Below, a net of one operator is wrong, not coarse."""
IMAGE = (1, 16, 16, 8)
"""As TFLite has it; nets in torch have the channels first."""

NOTE = """\
How: benchmarks/fit/silent_errors.py, on Linux x86-64 (AVX2) with Python 3.11: nets of one operator each, quantized by
ai-edge-quantizer 0.10.0, against LiteRT 2.3.0 in float32. Those of convolutions, products and embeddings were repeated
under emulation of a Cortex-A72, with the same failures (tflite_runtime 2.14.0, litert 1.2.0, 1.4.0 and 2.3.0).
sqnr_db: executed without an error, and wrong. error: refused. dtype: only operators that answer in this type. inputs:
only those that read so many tensors that are not constants. by_channel: only those that read a constant with a scale
for each channel, or with one for all. tflite_runtime 2.12.0 and 2.13.0: see tflite.toml.
No other kind and precision failed of those that were tried: fp32, fp16, weights (int8 weights alone), dynamic (int8
weights, activations quantized as they come), int8 and int16 (activations; int8 weights) of
"""


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.forward = function  # type: ignore[method-assign]


class Table(nn.Module):
    """A product with a constant of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        """From (2, 8, 16) to (2, 8, 24)."""
        return x @ self.table


class Embedding(nn.Module):
    """Rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        """From (1, 8, 16) to (1, 8, 32): the row of the largest value."""
        found: Tensor = self.table(x.argmax(-1))
        return found


@dataclass(frozen=True)
class Net:
    """A net whose operators, beside those that only move values, are of one kind."""

    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    inputs: int = 0
    """As in the table."""
    by_channel: bool | None = None
    """As in the table: weights have a scale for each channel, if possible; False: one for all."""
    mixed: bool = False
    """Of several kinds of operators: shown, and not written."""


def nets() -> dict[str, Net]:
    """By kind, and what sets it apart after a colon."""
    row = (1, 64)

    def of(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Net:
        return Net(Call(function), shapes or (row,))

    return {
        "CONV_2D": Net(nn.Conv2d(8, 24, 3, padding=1), (IMAGE,)),
        "DEPTHWISE_CONV_2D": Net(nn.Conv2d(8, 8, 3, padding=1, groups=8), (IMAGE,)),
        "TRANSPOSE_CONV": Net(nn.ConvTranspose2d(8, 12, 2, 2), (IMAGE,)),
        "FULLY_CONNECTED": Net(nn.Linear(64, 40), (row,)),
        "BATCH_MATMUL": of(lambda x, y: x @ y, (2, 8, 16), (2, 16, 8)),
        "BATCH_MATMUL:of a constant": Net(Table(), ((2, 8, 16),), inputs=1, by_channel=True),
        "BATCH_MATMUL:of a constant with one scale": Net(Table(), ((2, 8, 16),), inputs=1, by_channel=False),
        "EMBEDDING_LOOKUP": Net(Embedding(), ((1, 8, 16),)),
        "AVERAGE_POOL_2D": Net(nn.AvgPool2d(2), (IMAGE,)),
        "MAX_POOL_2D": Net(nn.MaxPool2d(2), (IMAGE,)),
        "MEAN": Net(nn.AdaptiveAvgPool2d(1), (IMAGE,)),
        "RESIZE_BILINEAR": Net(nn.UpsamplingBilinear2d(scale_factor=2), (IMAGE,)),
        "RESIZE_NEAREST_NEIGHBOR": Net(nn.UpsamplingNearest2d(scale_factor=2), (IMAGE,)),
        "PAD": of(lambda x: functional.pad(x, (1, 2, 3, 4)), (1, 4, 8, 8)),
        "ADD": of(lambda x, y: x + y, row, row),
        "SUB": of(lambda x, y: x - y, row, row),
        "MUL": of(lambda x, y: x * y, row, row),
        "DIV": of(lambda x, y: x / (y.abs() + 1), row, row),
        "MAXIMUM": of(lambda x, y: x.maximum(y), row, row),
        "CONCATENATION": of(lambda x, y: torch.cat([x, y], 1), row, row),
        "SUM": of(lambda x: x.sum(1, keepdim=True), (1, 8, 16)),
        "REDUCE_MAX": of(lambda x: x.amax(1, keepdim=True), (1, 8, 16)),
        "TRANSPOSE": of(lambda x: x.permute(0, 2, 1), (1, 8, 16)),
        "STRIDED_SLICE": of(lambda x: x[:, 1:7:2], (1, 8, 16)),
        "RELU": of(lambda x: x.relu()),
        "LEAKY_RELU": of(functional.leaky_relu),
        "PRELU": Net(nn.PReLU(64), (row,)),
        "HARD_SWISH": of(functional.hardswish),
        "LOGISTIC": of(lambda x: x.sigmoid()),
        "TANH": of(lambda x: x.tanh()),
        "GELU": Net(nn.GELU(), (row,)),
        "SOFTMAX": of(lambda x: x.softmax(-1)),
        "EXP": of(lambda x: x.exp()),
        "SQRT": of(lambda x: x.abs().sqrt()),
        "RSQRT": of(lambda x: (x.abs() + 0.1).rsqrt()),
        "LAYER_NORM": Net(nn.LayerNorm(64), (row,), mixed=True),
        "a small net": Net(small(), (IMAGE,), mixed=True),
    }


def small() -> nn.Module:
    """Convolutions and a classifier."""
    return nn.Sequential(
        *(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


# --- files


@dataclass(frozen=True)
class Case:
    """A file, and what it is executed on."""

    kind: str
    precision: str
    model: Path
    examples: tuple[NDArray[np.float32], ...]


def cases(folder: Path) -> Iterator[Case]:
    """Every net in every precision that the quantizer makes of it."""
    for kind, net in nets().items():
        random = np.random.default_rng(0)
        examples = tuple(random.normal(size=(EXAMPLES, *shape)).astype(np.float32) for shape in net.shapes)
        for precision in LEAST_SQNR_DB:
            model = folder / f"{kind.replace(':', '_').replace(' ', '_')}-{precision}.tflite"
            if precision == "fp32":
                float_model = model
            if model.exists():  # of a try that was ended
                pass
            elif precision == "fp32":
                convert(net, model)
            else:
                quantize(precision, float_model, examples, model, net.by_channel is not False)
            yield Case(kind, precision, model, examples)


def convert(net: Net, out: Path) -> None:
    """Write the float32 file."""
    import litert_torch

    torch.manual_seed(0)
    for parameter in net.module.parameters():
        # Channels of very different size, as trained nets have them: one scale for all of them is then seen.
        nn.init.normal_(parameter)
        parameter.data *= torch.logspace(-1.5, 0, len(parameter)).reshape(-1, *[1] * (parameter.ndim - 1))
    module = litert_torch.to_channel_last_io(net.module, args=[0]) if net.shapes == (IMAGE,) else net.module
    litert_torch.convert(module.eval(), tuple(map(torch.zeros, net.shapes))).export(str(out))


def quantize(
    precision: str, model: Path, examples: tuple[NDArray[np.float32], ...], out: Path, by_channel: bool
) -> None:
    """Write a file of another precision; calibrated as edgekd's converter does, on the full range."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity
    from ai_edge_quantizer.utils import qsv_utils

    recipes = recipe_manager.RecipeManager()
    if precision == "fp16":
        everything = recipe.TFLOperationName.ALL_SUPPORTED
        recipes.add_weight_only_config(".*", everything, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    else:
        made = {
            "weights": recipe.weight_only_wi8_afp32,
            "dynamic": recipe.dynamic_wi8_afp32,
            "int8": recipe.static_wi8_ai8,
            "int16": recipe.static_wi8_ai16,
        }[precision]()
        if not by_channel:
            for one in made:
                one["op_config"]["weight_tensor_config"]["granularity"] = QuantGranularity.TENSORWISE
        recipes.load_quantization_recipe(made)
    ranges = None
    if precision in {"int8", "int16"}:
        ((signature, given),) = Interpreter(str(model)).get_signature_list().items()
        seen = calibrator.Calibrator(str(model), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        fed = [dict(zip(sorted(given["inputs"]), one, strict=True)) for one in zip(*examples, strict=True)]
        seen.calibrate({signature: fed}, recipes)
        ranges = seen.get_model_qsvs()
    job = quantizer.Quantizer(str(model))
    job.load_quantization_recipe(recipes.get_quantization_recipe())
    job.quantize(ranges).export_model(str(out), overwrite=True)


# --- execution


def answers(release: Release, wanted: list[Case]) -> list[NDArray[Any] | str]:
    """What a release answers to each case, or why it does not."""
    left, found = list(wanted), list[NDArray[Any] | str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        engine = engine_file(release, folder)
        environments.install(engine)
        while left:
            with find(devices, "host").start("", engines.GUEST, engine, folder) as connection:
                while left:
                    try:
                        found.append(answer(connection, left.pop(0), folder))
                    except MeasureError as error:
                        found.append(str(error))
                        if "failed" not in str(error):  # it crashed, and must be started again
                            break
    return found


def answer(connection: devices.Connection, case: Case, folder: Path) -> NDArray[Any]:
    """What an engine answers to a case."""
    given, made = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(given, **{str(index): array for index, array in enumerate(case.examples)})  # type: ignore[arg-type]
    connection.ask({"do": "load", "model": str(case.model), "threads": 1}, 120)
    connection.ask({"do": "run", "inputs": str(given), "outputs": str(made)}, 120)
    with np.load(made) as arrays:
        outputs: NDArray[Any] = arrays["0"]
        return outputs


def engine_file(release: Release, folder: Path) -> Path:
    """The engine of a release, with the environment that operator_versions.py makes of it."""
    text = engines.path(release.engine).read_text(encoding="utf-8")
    if release.packages[0].startswith("tensorflow"):
        text = text.replace("from tflite_runtime import", "from tensorflow.lite.python import")
        text = text.replace('"tflite_runtime.interpreter"', '"tensorflow.lite.python.interpreter"')
    path = folder / f"{release.engine}-{release.version}.py"
    path.write_text(f"{text}\nENVIRONMENT = {release.packages!r}\n", encoding="utf-8")
    return path


# --- the table


@dataclass(frozen=True)
class Failure:
    """What went wrong in a release."""

    release: Release
    kind: str
    precision: str
    sqnr_db: float | None
    error: str = ""


def judge(release: Release, wanted: list[Case], truth: dict[str, NDArray[Any]]) -> Iterator[Failure]:
    """Print how close each answer is, and give what is wrong."""
    shown: dict[str, list[str]] = {}
    for case, found in zip(wanted, answers(release, wanted), strict=True):
        if isinstance(found, str):
            shown.setdefault(case.kind, []).append(f"{case.precision}: {found[:100]}")
            yield Failure(release, case.kind, case.precision, None, reason(found))
            continue
        close = sqnr_db(truth[case.kind], found)
        shown.setdefault(case.kind, []).append(f"{case.precision} {close:.1f}")
        if close < LEAST_SQNR_DB[case.precision]:
            yield Failure(release, case.kind, case.precision, round(close, 1))
    for kind, cells in shown.items():
        print(release.engine, release.version, kind, *cells, sep=" | ", flush=True)


def reason(error: str) -> str:
    """What the runtime says, without paths, and numbers of lines and nodes."""
    said = (error.partition("Error: ")[2] or error).partition("Node number")[0]
    words = [word for word in said.split() if not word.startswith(("/", "tensorflow/", "tflite/", "external/"))]
    return textwrap.shorten(re.sub(r"\s*(node #\d+|\(-?\d+ != -?\d+\))\.?$", "", " ".join(words)), 100)


def table(failures: list[Failure], kinds: list[str]) -> str:
    """TOML: a table for each kind and precision, with the releases it fails in."""
    lines = [f"# {line}" for line in NOTE.splitlines()]
    lines += [
        f"# {line}" for line in textwrap.wrap(", ".join(dict.fromkeys(kind.partition(":")[0] for kind in kinds)), 118)
    ]
    groups: dict[tuple[str, str, str, bool], list[Failure]] = {}
    for one in failures:
        groups.setdefault((one.release.engine, one.precision, one.kind, one.sqnr_db is None), []).append(one)
    known = nets()
    for (engine, precision, kind, refused), found in sorted(groups.items()):
        lines += ["", f"[[{engine}]]", f'precision = "{precision}"', f'kind = "{kind.partition(":")[0]}"']
        if precision in {"int8", "int16"}:
            lines.append(f'dtype = "{precision}"')
        if known[kind].inputs:
            lines.append(f"inputs = {known[kind].inputs}")
        if known[kind].by_channel is not None:
            lines.append(f"by_channel = {str(known[kind].by_channel).lower()}")
        lines.append(f"releases = {json.dumps([one.release.version for one in found])}")
        worst = min(one.sqnr_db for one in found if one.sqnr_db is not None) if not refused else 0.0
        lines.append(f"error = {json.dumps(found[-1].error)}" if refused else f"sqnr_db = {worst}")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Make the nets, execute them on every release, and write what fails."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(cases(folder))
    floats = [case for case in wanted if case.precision == "fp32"]
    newest = answers(TFLITE[-1], floats)
    truth = {case.kind: found for case, found in zip(floats, newest, strict=True) if not isinstance(found, str)}
    assert len(truth) == len(floats), [found for found in newest if isinstance(found, str)]
    failures = [one for release in TFLITE for one in judge(release, wanted, truth)]
    known = nets()
    written = [one for one in failures if not known[one.kind].mixed]
    write_text(RUNTIMES / "tflite-failures.toml", table(written, [kind for kind in truth if not known[kind].mixed]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
