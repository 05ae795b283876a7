"""A latency profile of your own device: from measurements that you have, or from probes that are measured on it."""

import csv
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgekd import cost, fitted
from edgekd.bench import Bench, jobs, measured
from edgekd.convert import Order, convert
from edgekd.cost import seen
from edgekd.errors import ConfigError, MeasureError
from edgekd.files import content, read_text
from edgekd.fitted import CONTRADICTORY, Profile
from edgekd.kernels import Kernels
from edgekd.progress import tell
from edgekd.specs import Count, Failure, Measurement, Mode, Positive, Spec, Text

COLUMNS: Final[Mapping[str, str]] = {
    "model": "path of a model file, beside the table or absolute, or module:function",
    "latency_ms": "of one inference at batch 1: a median or a mean, above 0",
    "engine": "litert, onnxruntime, openvino, coreml, ncnn, pytorch-mobile ...; else the usual one of the format",
    "precision": "fp32, fp16, int8 ...; else what the file has",
    "threads": "of the runtime; else 1",
}
USUAL: Final = {
    "tflite": "litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "coreml": "coreml",
    "torch": "litert",
}
MOST_ROWS: Final = 100_000
DIFFERENT: Final = 1.25
"""Times that measurements of one net may differ before that is told."""
OUTLYING: Final = 0.7
"""Log units that a measurement may be away from what fits the others before that is told."""
PROBES: Final = ("convolutions", "pointwise", "depthwise", "inverted", "branches", "attention", "dense")


class Row(Spec, frozen=True, kw_only=True):
    """A model that was measured on a device."""

    model: Text
    latency_ms: Positive
    engine: str = ""
    precision: str = ""
    threads: Count = 1
    line: int = 0
    """Of the table."""


class Calibration(Spec, frozen=True, kw_only=True):
    """What came of a calibration."""

    name: str
    path: str
    profiles: tuple[Profile, ...]
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


def rows_of(path: Path) -> tuple[Row, ...]:
    """The measurements of a table: see COLUMNS.

    Raises:
        ConfigError: a column is missing or unknown, or a row says what cannot be.
    """
    lines = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    names = [name.strip() for name in lines.fieldnames or ()]
    lines.fieldnames = names
    for name in ("model", "latency_ms"):
        if name not in names:
            raise ConfigError(f"{path}: no column {name!r}", hint=f"columns: {', '.join(COLUMNS)}")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"{path}: unknown column {unknown[0]!r}", hint=f"columns: {', '.join(COLUMNS)}")
    found: list[Row] = []
    for row in lines:
        if len(found) >= MOST_ROWS:
            raise ConfigError(f"{path}: more than {MOST_ROWS} rows")
        found.append(_row(path, lines.line_num, row))
    if not found:
        raise ConfigError(f"{path}: no rows", hint="five nets of different kinds are enough")
    return tuple(found)


def _row(path: Path, line: int, row: Mapping[str | None, str | None]) -> Row:
    where = f"{path}, line {line}"
    if None in row:
        raise ConfigError(f"{where}: more fields than columns")
    told = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not told["model"]:
        raise ConfigError(f"{where}: no model")
    latency = _number(told["latency_ms"], where, "latency_ms")
    threads = _number(told["threads"] or "1", where, "threads")
    if threads != int(threads) or threads > 1024:
        raise ConfigError(f"{where}: threads is {told['threads']!r}, and not a number from 1 to 1024")
    model = told["model"]
    beside = path.parent / model
    return Row(
        model=str(beside) if beside.exists() else model,
        latency_ms=latency,
        engine=told["engine"],
        precision=told["precision"],
        threads=int(threads),
        line=line,
    )


def _number(text: str, where: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {column} is {text!r}, and no number") from None
    if not (math.isfinite(number) and 0 < number < 1e9):
        raise ConfigError(f"{where}: {column} is {text}", hint="it must be above 0; leave out what was not measured")
    return number


def calibrate(name: str, rows: Sequence[Row], device: str = "") -> Calibration:
    """Fit profiles on measurements, one for each engine, precision and number of threads, and keep them under a name.

    Raises:
        ConfigError: a model is not there or damaged, or measurements of one contradict each other.
        StorageError: the profile cannot be written.
    """
    notes: list[str] = []
    groups: dict[tuple[str, str, int], list[tuple[str, Kernels, float]]] = {}
    known: dict[str, tuple[str, Kernels, str]] = {}
    for index, row in enumerate(rows):
        tell("reading models", index, len(rows))
        if row.model not in known:
            known[row.model] = seen(row.model)
        format_, kernels, precision = known[row.model]
        if not row.engine and format_ == "torch":
            notes.append(f"{row.model} is a module: taken as executed by litert")
        key = (row.engine or USUAL[format_], row.precision or precision, row.threads)
        groups.setdefault(key, []).append((row.model, kernels, row.latency_ms))
    tell("reading models", len(rows), len(rows))
    profiles = tuple(_profile(name, device or name, key, some, notes) for key, some in sorted(groups.items()))
    path = fitted.keep(name, profiles)
    return Calibration(name=name, path=str(path), profiles=profiles, notes=tuple(dict.fromkeys(notes)))


def _profile(
    name: str, device: str, key: tuple[str, str, int], rows: list[tuple[str, Kernels, float]], notes: list[str]
) -> Profile:
    engine, precision, threads = key
    where = f"{engine} {precision}, {threads} threads"
    runtime, unit = cost.runtime_of(engine)
    family = fitted.family_or_like(runtime, unit, cost.costed_as(runtime, precision))
    if family.rows and not family.held:
        notes.append(f"{engine}: nobody has measured it before; TFLite tells which coefficients are plausible")
    merged = _merged(rows, where, notes)
    totals = family.totals([kernels for kernels, _ in merged.values()])
    nets = [
        fitted.evidence(Path(model).name, ms, row, content(Path(model))[1] if Path(model).exists() else "")
        for (model, (_, ms)), row in zip(merged.items(), totals, strict=True)
    ]
    short = _short(f"{name}-{runtime}-{unit}-{precision}-t{threads}")
    made = fitted.own_profile(short, device, family, threads if unit == "cpu" else 0, nets)
    for (model, (_, ms)), fits in zip(merged.items(), made.fit.predict(totals), strict=True):
        if abs(math.log(ms / fits)) > OUTLYING:
            notes.append(f"{model} took {ms / fits:.2g} times what fits the other nets ({where}): is it that net?")
    if made.rows < 5:
        notes.append(f"{made.rows} nets for {where}: five of different kinds tell more")
    return made


def _short(name: str) -> str:
    return "".join(one if one.isalnum() or one in "._-" else "-" for one in name)[:64]


def _merged(rows: list[tuple[str, Kernels, float]], where: str, notes: list[str]) -> dict[str, tuple[Kernels, float]]:
    """One latency a model: the median of what was measured of it."""
    by_model: dict[str, list[float]] = {}
    for model, _, latency in rows:
        by_model.setdefault(model, []).append(latency)
    for model, some in by_model.items():
        if max(some) > CONTRADICTORY * min(some):
            raise ConfigError(
                f"{model} took {min(some):g} ms and {max(some):g} ms ({where}): one of them must be wrong",
                hint="remove it, or say with `threads`, `engine` or `precision` what made the difference",
            )
        if max(some) > DIFFERENT * min(some):
            notes.append(f"{model} took {min(some):g} to {max(some):g} ms ({where}): the median counts")
    return {model: (kernels, float(np.median(by_model[model]))) for model, kernels, _ in rows}


# --- on a device


def measure(name: str, device: str, engine: str, precision: str, threads: int, mode: Mode) -> Calibration:
    """Measure a small set of probes on a device, and fit a profile on them.

    Raises:
        ConfigError: no converter makes files that the engine executes.
        MeasureError: fewer than three probes could be measured.
        DeviceUnreachable, PluginUnavailable: the device does not answer, or has no such runtime.
    """
    format_ = next((form for form, able in cost.executes().items() if engine in able), "")
    if not format_:
        raise ConfigError(f"engine {engine!r} executes no format that edgekd exports", hint="litert, onnxruntime ...")
    with tempfile.TemporaryDirectory(prefix="edgekd-calibrate-") as scratch:
        files = []
        for index, probe in enumerate(PROBES):
            tell("making probes", index, len(PROBES))
            order = Order(
                model=f"edgekd.probes:{probe}",
                exports=(f"{format_}-{precision}",),
                calibration="" if precision.startswith("fp") else f"edgekd.probes:{probe}_examples",
            )
            made = convert(order, Path(scratch) / probe).artifacts[0]
            if not made.error:
                files.append(Path(scratch) / probe / made.file)
        bench = Bench(models=tuple(map(str, files)), engines=(engine,), device=device, mode=mode, threads=threads)
        rows, failures, notes = [], [], list[str]()
        for file, one in zip(files, measured(bench, jobs(bench)), strict=True):
            if isinstance(one, Measurement):
                notes += [f"{one.artifact}: not stable: {reason}" for reason in one.reasons]
                rows.append(
                    Row(
                        model=str(file),
                        latency_ms=one.latency_ms.p50,
                        engine=engine,
                        precision=precision,
                        threads=threads,
                    )
                )
            elif isinstance(one, Failure):
                failures.append(one)
        if len(rows) < 3:
            why = failures[0].error if failures else "nothing is timed there"
            raise MeasureError(f"{len(rows)} of {len(PROBES)} probes could be measured on {device}: {why}")
        found = calibrate(name, rows, device)
    return Calibration(
        name=found.name,
        path=found.path,
        profiles=found.profiles,
        notes=(*notes, *found.notes),
        failures=tuple(failures),
    )
