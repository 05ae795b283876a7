"""edgekd's exports beside hand-written calls of each library: size, accuracy, latency and time, in one run.

usage: python benchmarks/peers/formats.py [FOLDER]; writes benchmarks/results/formats.md. Half an hour on two cores.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nets
import numpy as np
from by_hand import SUFFIXES

from edgekd import devices, engines, parity
from edgekd.plugins import find
from edgekd.sides import execute, same_order, sides_of
from edgekd.tensors import Tensors, first_examples, given_inputs, write_inputs

HERE = Path(__file__).parent
ENGINES = {"tflite": "litert", "onnx": "onnxruntime", "openvino": "openvino", "coreml": "mil"}
EXPORTS = (
    "tflite-fp32",
    "tflite-fp16",
    "tflite-dynamic",
    "tflite-int8",
    "onnx-fp32",
    "onnx-fp16",
    "onnx-int8",
    "openvino-fp32",
    "openvino-fp16",
    "openvino-int8",
    "coreml-fp32",
    "coreml-fp16",
    "coreml-int8",
)
ROUNDS = 3
"""Latency is the median of so many alternating processes, so that a busy moment hits both alike."""


def main(folder: Path) -> None:
    """Export, execute, compare and write the table."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["EDGEKD_PEERS_DIGITS"] = str(folder / "digits.safetensors")
    nets.digits()
    lines = [
        "# Exports beside hand-written calls of the same libraries",
        "",
        "`python benchmarks/peers/formats.py`; every number is of this host, side by side in one run. `hand` is",
        "benchmarks/peers/by_hand.py, each library as its documentation shows it. SQNR is against the net in PyTorch.",
        "Seconds are of whole processes with imports: by hand one a library, for all its precisions;",
        "ours is one command, which also executes every file and holds it against the net.",
        "",
    ]
    for net in nets.NAMES:
        lines += _table(net, folder / net)
    (HERE.parent / "results" / "formats.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _table(net: str, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    reference = f"{HERE / 'nets.py'}:{net}"
    given = first_examples(given_inputs(f"{HERE / 'nets.py'}:{net}_inputs"), 32)
    with TemporaryDirectory() as scratch:
        _, expected = execute(sides_of(reference)[0], given, 32, Path(scratch))
    hand_seconds = {library: _by_hand(net, library, folder / "hand") for library in ENGINES}
    start = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "edgekd",
        "export",
        reference,
        "--to",
        ",".join(EXPORTS),
        "-o",
        str(folder / "ours"),
    ]
    subprocess.run([*command, "--calibration", f"{reference}_inputs"], check=False)
    seconds = time.monotonic() - start
    parts = ", ".join(f"{library} {took:.0f}" for library, took in hand_seconds.items())
    total = sum(hand_seconds.values())
    lines = [
        f"## {net}",
        "",
        f"All exports: {seconds:.0f} s with edgekd, {total:.0f} s by hand ({parts}): {seconds / total:.2f} times.",
        "",
        "| export | bytes hand | ours | SQNR hand | ours | top-1 hand | ours | accuracy hand | ours | ms ours / hand |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for export in EXPORTS:
        name = export.partition("-")[0]
        files = tuple(folder / whose / f"{net}-{export}{SUFFIXES[name]}" for whose in ("hand", "ours"))
        lines.append(_row(net, export, files, given, expected))
    return [*lines, ""]


def _by_hand(net: str, library: str, folder: Path) -> float:
    folder.mkdir(exist_ok=True)
    exports = [export for export in EXPORTS if export.startswith(f"{library}-")]
    start = time.monotonic()
    with (folder / f"{library}.log").open("wb") as log:
        subprocess.run(
            [sys.executable, str(HERE / "by_hand.py"), net, str(folder), *exports], stdout=log, stderr=log, check=False
        )
    return time.monotonic() - start


def _row(net: str, export: str, files: tuple[Path, Path], given: Tensors, expected: Tensors) -> str:
    sizes, sqnr, top1, accuracy = [], [], [], []
    for file in files:
        size, close, right = _quality(net, file, export, given, expected)
        sizes.append(size)
        sqnr.append(close and f"{close.sqnr_db:.1f}")
        top1.append(close and f"{close.top1_agreement:.3f}")
        accuracy.append(right)
    ratio = _latency_ratio(files, export, given)
    cells = [sizes[0], sizes[1], sqnr[0], sqnr[1], top1[0], top1[1], accuracy[0], accuracy[1], ratio]
    return f"| {export} | " + " | ".join(str(cell or "failed") for cell in cells) + " |"


def _quality(net: str, file: Path, export: str, given: Tensors, expected: Tensors) -> tuple[str, Any, str]:
    from edgekd.files import content

    if not file.exists():
        return "", None, ""
    side = sides_of(str(file), [ENGINES[export.partition("-")[0]]])[0]
    with TemporaryDirectory() as scratch:
        _, found = execute(side, given, 32, Path(scratch))
        ordered, _ = same_order(expected, found, side.name)
        right = "-"
        if net == "digits":
            images, labels = nets.digits_test()
            _, answers = execute(side, Tensors(given.specs, (images,)), 1, Path(scratch))
            right = f"{np.mean(answers.arrays[0].reshape(len(labels), -1).argmax(1) == labels):.4f}"
    return f"{content(file)[0]:,}", parity.closeness(expected.arrays, ordered), right


def _latency_ratio(files: tuple[Path, Path], export: str, given: Tensors) -> str:
    name = export.partition("-")[0]
    if name == "coreml" or not all(file.exists() for file in files):
        return "-"  # the interpreter checks, and is no runtime to time
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for file, found in zip(files, samples, strict=True):
            found.append(_median_ms(file, ENGINES[name], given))
    theirs, ours = np.median(samples[0]), np.median(samples[1])
    return f"{ours:.3f} / {theirs:.3f} = {ours / theirs:.2f}"


def _median_ms(file: Path, engine: str, given: Tensors) -> float:
    from edgekd.tensors import fitted, specs_of

    protocol = {"warmup_count": 8, "warmup_s": 0.3, "min_count": 32, "min_s": 1.5, "max_s": 20}
    with (
        TemporaryDirectory() as scratch,
        find(devices, "host").start("", engines.GUEST, engines.path(engine), Path(scratch)) as connection,
    ):
        loaded = connection.ask({"do": "load", "model": str(file), "threads": 1}, 120)
        inputs = Path(scratch) / "inputs.npz"
        write_inputs(inputs, *fitted(given, specs_of(loaded["inputs"]), file.name).arrays)
        timed = connection.ask({"do": "time", "inputs": str(inputs), **protocol}, 120)
    return float(np.median(timed["samples_ms"]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as made:
            main(Path(made))
