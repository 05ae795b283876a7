"""Latency of a run's student beside its teacher's, in the same formats and on the same engine, in one run.

    python benchmarks/answering.py RUN TARGET [EXPORTS [ENGINE]]

RUN is the folder of a run of a recipe about texts, from `edgekd run` or `edgekd sweep`; EXPORTS are some of those that
its student has. The teacher's files are made here from its weights, calibrated on the same texts; files are timed in
turn, and of ROUNDS times the median counts.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch

import edgekd
from edgekd.bench import Bench, jobs, measured
from edgekd.files import decode
from edgekd.oracles import trained
from edgekd.runs import Work
from edgekd.specs import Data, Measurement, Teacher

ROUNDS = 5


def teacher_files(run: Path, exports: list[str], folder: Path) -> dict[str, Path]:
    """The teacher of a run in each of the formats."""
    data, teacher = (
        decode(kind, json.loads((run / step / "result.json").read_text())["result"], step)
        for kind, step in ((Data, "data"), (Teacher, "teacher"))
    )
    net = trained(Work(str(run), "teacher", str(folder)), teacher, data.subject)
    texts = np.load(run / data.train_inputs.path, mmap_mode="r")[:200]
    example = torch.from_numpy(np.array(texts[:1]))
    torch.export.save(torch.export.export(net.module.eval(), (example,)), folder / "teacher.pt2")
    np.save(folder / "texts.npy", texts)
    made = edgekd.export_model(
        str(folder / "teacher.pt2"), exports, calibration=str(folder / "texts.npy"), out=folder / "teacher"
    )
    return {one.export: made.folder / one.file for one in made.artifacts}


def times(files: Mapping[str, Path], engine: str, texts: Path) -> dict[str, float]:
    """Of each file the median of its rounds, in ms."""
    found: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, file in files.items():
            bench = Bench(models=(str(file),), engines=(engine,), inputs=str(texts))
            (one,) = measured(bench, jobs(bench))
            assert isinstance(one, Measurement), one
            found[name].append(one.latency_ms.p50)
    return {name: median(ms) for name, ms in found.items()}


def main(run: Path, target: str, exports: list[str], engine: str) -> None:
    """Print a line for each format."""
    with tempfile.TemporaryDirectory() as folder:
        files = {f"teacher {export}": file for export, file in teacher_files(run, exports, Path(folder)).items()}
        for export in exports:
            (files[f"student {export}"],) = (run / target / "3-export" / export).glob("model.*")
        ms = times(files, engine, Path(folder) / "texts.npy")
    print(f"| {engine} [host] | teacher ms | student ms | ratio | to the teacher in {exports[0]} |")
    print("|---|---|---|---|---|")
    for export in exports:
        teacher, student, first = ms[f"teacher {export}"], ms[f"student {export}"], ms[f"teacher {exports[0]}"]
        print(f"| {export} | {teacher:.3f} | {student:.3f} | {teacher / student:.1f} | {first / student:.1f} |")


if __name__ == "__main__":
    exports, engine = [*sys.argv[3:], *("tflite-fp32,tflite-int8", "litert")[len(sys.argv) - 3 :]]
    main(Path(sys.argv[1]), sys.argv[2], exports.split(","), engine)
