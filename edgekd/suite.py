"""Benchmark suites: models x exports x engines x threads on a device, kept in one file that can be gone on with.

A suite is a TOML file (benchmarks/suites). What it measures are files, fetched where they are not here and held against
their SHA-256, or models that are exported first.
"""

import itertools
import os
import platform
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from edgekd.bench import Bench, jobs, measured
from edgekd.convert import Order, convert
from edgekd.errors import ConfigError, ConvertError, EdgekdError, PluginUnavailable
from edgekd.fetch import fetch
from edgekd.files import content, decode_json, digest, dumps, read_text, write_text
from edgekd.measure import Job, modelled
from edgekd.progress import tell
from edgekd.shipped import beside
from edgekd.specs import Counted, Failure, Measurement, Mode, Name, Size, Spec, Text

SCHEMA: Final = 1


class Entry(Spec, frozen=True, kw_only=True):
    """One model of a suite: a file, or one that is exported."""

    name: Name
    file: str = ""
    """Looked for beside the suite, then in the folder that EDGEKD_DATA names, then in the cache of downloads."""
    url: str = ""
    sha256: str = ""
    size_bytes: Size = 0
    """Of the download."""
    model: str = ""
    """`module:function`, looked for beside the suite first, or the path of a model, as `edgekd export` takes it."""
    exports: tuple[str, ...] = ()
    calibration: str = ""
    inputs: str = ""
    """As `edgekd bench --inputs`; else seeded random numbers."""
    engines: tuple[str, ...] = ()
    """Else the usual one of the format."""
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.model):
            raise ValueError("a model is either a `file`, or a `model` with `exports`")
        if self.url and not (self.sha256 and self.size_bytes):
            raise ValueError("a `url` needs the `sha256` and the `size_bytes` of what is there")
        if self.model and not self.exports:
            raise ValueError("a `model` needs `exports`")


class Suite(Spec, frozen=True, kw_only=True):
    """What is measured together (one file in benchmarks/suites/)."""

    schema: Literal[1]
    name: Name
    title: Text
    mode: Mode = "quick"
    rounds: Annotated[int, Meta(ge=1, le=100)] = 1
    threads: Annotated[tuple[int, ...], Meta(min_length=1)] = (1,)
    models: Annotated[tuple[Entry, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.models]
        if len(set(names)) < len(names):
            raise ValueError("two models have one name")


class Row(Spec, frozen=True, kw_only=True):
    """One model on one engine."""

    model: Name
    """Of the suite's entry."""
    export: str
    """What was made of it; "" for a file."""
    engine: str
    threads: int
    sha256: str = ""
    """Of the file that was executed."""
    measurement: Measurement | None = None
    counted: Counted | None = None
    """In its place on an emulated device, where times would tell nothing."""
    error: str = ""
    hint: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is compared with what."""
        return self.model, self.export, self.engine, self.threads

    @property
    def done(self) -> bool:
        """True where something was found, and no error."""
        return self.measurement is not None or self.counted is not None

    @property
    def title(self) -> str:
        """For people."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.model} {self.export}".strip() + (f" on {self.engine}" if self.engine else "") + threads


class Results(Spec, frozen=True, kw_only=True):
    """What a suite found on a device."""

    schema: Literal[1]
    suite: Name
    suite_sha256: str
    device: str
    started: str
    """ISO 8601, UTC."""
    edgekd: str
    rows: tuple[Row, ...] = ()

    @property
    def ok(self) -> bool:
        """True when everything was measured, or counted."""
        return all(row.done for row in self.rows)


def run_suite(
    suite: Suite, folder: Path, device: str, out: Path, mode: Mode | None = None, told: Callable[[Row], None] = print
) -> Results:
    """Measure everything on a device, or count it where times tell nothing; `folder` is the suite's own. `out` is
    written after each row.

    What stands in `out` of the same suite, device and machine is not measured again.

    Raises:
        ConfigError: `out` is of something else.
        DeviceUnreachable: the device does not answer; what was measured stays.
    """
    if mode:
        suite = msgspec.structs.replace(suite, mode=mode)
    results = _begun(suite, device, out)
    done = {row.key for row in results.rows if row.done}
    kept = [row for row in results.rows if row.key in done]
    total = len(suite.models)
    for number, entry in enumerate(suite.models):
        tell(f"suite {suite.name}", number, total)
        for row in _rows(suite, entry, folder, device, out.parent / f".{out.stem}-files", done):
            kept.append(row)
            told(row)
            results = msgspec.structs.replace(results, rows=tuple(kept))
            write_text(out, dumps(results))
    tell(f"suite {suite.name}", total, total)
    return results


def default_out(suite: Suite, device: str) -> Path:
    """Below the working folder, by machine and suite: "benchmarks/results/<machine>/<suite>.json"."""
    where = re.sub(r"[^A-Za-z0-9.]+", "-", platform.node() if device == "host" else device).strip("-.")
    return Path("benchmarks/results") / (where or "machine") / f"{suite.name}.json"


def load_results(path: Path) -> Results:
    """What `run_suite` wrote.

    Raises:
        ConfigError: there is no such file, or it is damaged.
    """
    return decode_json(Results, read_text(path), str(path))


def _begun(suite: Suite, device: str, out: Path) -> Results:
    sha256 = digest(suite)
    if out.exists():
        results = load_results(out)
        if (results.suite, results.device) != (suite.name, device):
            raise ConfigError(f"{out} is of {results.suite} on {results.device}", hint="name another file with -o")
        if results.suite_sha256 == sha256:
            return results
        out.rename(out.with_stem(f"{out.stem}-{results.started.replace(':', '')}"))  # of another version of the suite
    out.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Results(
        schema=SCHEMA, suite=suite.name, suite_sha256=sha256, device=device, started=now, edgekd=version("edgekd")
    )


def _rows(
    suite: Suite, entry: Entry, folder: Path, device: str, files: Path, done: set[tuple[str, str, str, int]]
) -> Iterator[Row]:
    """What is not done yet of one entry; what fails is a row with an error."""
    wanted = [export for export in entry.exports or ("",) if not _is_done(suite, entry, export, done)]
    for export, path in _files(entry, wanted, folder, files).items():
        try:
            if isinstance(path, EdgekdError):
                raise path
            planned = _jobs(suite, entry, path, device)
        except (ConfigError, ConvertError) as error:
            threads = suite.threads[0]
            yield Row(model=entry.name, export=export, engine="", threads=threads, error=str(error), hint=error.hint)
            continue
        counts: dict[str, Counted] = {}
        for threads, job in planned:
            row = Row(model=entry.name, export=export, engine=job.engine, threads=threads, sha256=content(path)[1])
            if row.key in done:
                continue
            if counted := counts.get(job.engine):  # of one thread whatever is asked for; the model makes the rest of it
                yield msgspec.structs.replace(row, counted=modelled(msgspec.structs.replace(counted, threads=threads)))
                continue
            found = _measured(row, job, entry, folder)
            if found.counted:
                counts[job.engine] = found.counted
            yield found


def _is_done(suite: Suite, entry: Entry, export: str, done: set[tuple[str, str, str, int]]) -> bool:
    """True where nothing is left to measure, so that nothing need be exported for it."""
    measured_on = [
        sum(key[:2] == (entry.name, export) and key[3] == threads for key in done) for threads in suite.threads
    ]
    return min(measured_on) >= max(1, len(entry.engines))


def _jobs(suite: Suite, entry: Entry, path: Path, device: str) -> list[tuple[int, Job]]:
    bench = Bench(models=(str(path),), engines=entry.engines, device=device, mode=suite.mode, rounds=suite.rounds)
    return [(threads, job._replace(threads=threads)) for threads, job in itertools.product(suite.threads, jobs(bench))]


def _measured(row: Row, job: Job, entry: Entry, folder: Path) -> Row:
    inputs = beside(entry.inputs, folder)
    bench = Bench(models=(str(job.model),), device=job.device, mode=job.mode, inputs=inputs)
    try:
        (found,) = measured(bench, [job])
    except PluginUnavailable as error:  # others of the suite may be executed there
        return msgspec.structs.replace(row, error=str(error), hint=error.hint)
    if isinstance(found, Failure):
        return msgspec.structs.replace(row, error=found.error, hint=found.hint)
    if isinstance(found, Counted):
        return msgspec.structs.replace(row, counted=found)
    assert isinstance(found, Measurement)
    return msgspec.structs.replace(row, measurement=found)


def _files(entry: Entry, exports: list[str], folder: Path, files: Path) -> dict[str, Path | EdgekdError]:
    """The file of each export, all made at once, or why there is none."""
    if not exports:
        return {}
    try:
        return _exported(entry, exports, folder, files / entry.name) if entry.model else {"": _file(entry, folder)}
    except (ConfigError, ConvertError) as error:
        return dict.fromkeys(exports, error)


def _exported(entry: Entry, exports: list[str], folder: Path, out: Path) -> dict[str, Path | EdgekdError]:
    calibration = beside(entry.calibration, folder)
    order = Order(model=beside(entry.model, folder), exports=tuple(exports), calibration=calibration)
    return {
        made.export: ConvertError(made.error, hint=made.hint) if made.error else out / made.file
        for made in convert(order, out).artifacts
    }


def _file(entry: Entry, folder: Path) -> Path:
    """The model file of an entry, fetched where it is not there."""
    for place in (folder, Path(os.environ.get("EDGEKD_DATA", folder))):
        path = place / entry.file
        if path.exists():
            return _checked(path, entry)
    if not entry.url:
        raise ConfigError(f"{entry.file} is not there", hint=f"export EDGEKD_DATA=FOLDER, with {entry.file} in it")
    return fetch(entry.url, entry.sha256, entry.size_bytes)


def _checked(path: Path, entry: Entry) -> Path:
    if entry.sha256 and content(path)[1] != entry.sha256:
        raise ConfigError(f"{path} is not the file that the suite means", hint=f"its SHA-256 is to be {entry.sha256}")
    return path
