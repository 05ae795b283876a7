"""edgekd's host timing beside a bare loop over each runtime's own API: medians and resident memory, in one run.

usage: python benchmarks/peers/timing.py MODEL...; .tflite on LiteRT, .onnx on ONNX Runtime. Processes alternate, so
that a busy moment hits both alike.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekd import devices, engines
from edgekd.bench import Bench, jobs, measured
from edgekd.specs import Measurement
from edgekd.tensors import drawn, write_inputs

ROUNDS = 5
SECONDS = 6.0
BARE = Path(__file__).with_name("bare_loop.py")


def resident(model: str) -> int:
    """Bytes of edgekd's process that weighs a model, all of it."""
    (job,) = jobs(Bench(models=(model,)))
    with tempfile.TemporaryDirectory() as folder:
        inputs, scratch = Path(folder) / "inputs.npz", Path(folder)
        with devices.start("host", engines.GUEST, engines.path(job.engine), scratch) as connection:
            loaded = connection.ask({"do": "load", "model": model, "threads": 1}, 600)
        write_inputs(inputs, *drawn(loaded["inputs"], 1).arrays)
        with devices.start("host", engines.GUEST, engines.path(job.engine), scratch) as connection:
            asked = {"do": "memory", "model": model, "inputs": str(inputs), "threads": 1}
            return int(connection.ask(asked, 600)["process_bytes"])


def main(models: list[str]) -> None:
    """Print a table of ratios."""
    print("| model | ms bare | ms edgekd | ratio | MB bare | MB edgekd | ratio |\n|---|---|---|---|---|---|---|")
    for model in models:
        theirs, ours, their_bytes, our_bytes = [], [], [], []
        for _ in range(ROUNDS):
            said = subprocess.run(
                [sys.executable, BARE, model, str(SECONDS)], capture_output=True, text=True, check=True
            ).stdout.split()
            theirs.append(float(said[0]))
            their_bytes.append(float(said[1]))
            our_bytes.append(resident(model))
            bench = Bench(models=(model,), mode="rapid")
            (found,) = measured(bench, jobs(bench))
            assert isinstance(found, Measurement), found
            ours.append(found.latency_ms.p50)
        print("|", " | ".join([Path(model).name, *_row(theirs, ours, 1), *_row(their_bytes, our_bytes, 1e6)]), "|")


def _row(theirs: list[float], ours: list[float], unit: float) -> tuple[str, str, str]:
    """Two medians and their ratio."""
    bare, edgekd = float(np.median(theirs)), float(np.median(ours))
    return f"{bare / unit:.4g}", f"{edgekd / unit:.4g}", f"{edgekd / bare:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
