"""A run folder: every finished step is one sub-folder; running again redoes only what changed.

A step is done exactly when `<name>/result.json` exists. Its work goes to `<name>.partial-<key>`, which survives a
kill (a long step finds its own checkpoints there) and is renamed into place at the end. The key is a hash of the
step's function, its VERSION and its input values, so an equal result upstream stops the redo. Of a file its content and
name count, not its place: what was made for one target is there for another that needs the same.
"""

import fcntl
import inspect
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from edgekd.errors import ConfigError, CorruptStep, RunLocked
from edgekd.files import content, decode, digest, discard, dumps, link, members, storage_errors, write_text
from edgekd.specs import File

_FILE = set(File.__struct_fields__)
P = ParamSpec("P")
R = TypeVar("R", bound=msgspec.Struct)


class Work(msgspec.Struct, frozen=True):
    """What a step may touch: a folder of its own, and the files of finished steps."""

    run_folder: str
    name: str
    out_folder: str

    @property
    def out(self) -> Path:
        """Empty on a first try; on a second try it has what a killed first try left."""
        return Path(self.out_folder)

    def keep(self, written: Path) -> File:
        """Describe a file written under `out`, by the path it will have once the step is done."""
        path = f"{self.name}/{written.relative_to(self.out).as_posix()}"
        size_bytes, sha256 = content(written)
        return File(path=path, size_bytes=size_bytes, sha256=sha256)

    def path(self, file: File) -> Path:
        """Where a finished step's file is."""
        return Path(self.run_folder) / file.path


class Run:
    """A run folder, made on first use.

    Raises:
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends.

        Raises:
            RunLocked: another process holds it; the message says which.
        """
        with storage_errors(self.folder):
            holder = (self.folder / ".lock").open("a+", encoding="utf-8")
        with holder:
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder.seek(0)
                raise RunLocked(
                    f"{self.folder} is held by {holder.read(200).strip() or 'another process'}",
                    hint="wait for it, end it, or choose another folder with -o",
                ) from error
            holder.truncate(0)
            holder.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}")
            holder.flush()
            yield

    def step(self, name: str, function: Callable[Concatenate[Work, P], R], *inputs: P.args, **options: P.kwargs) -> R:
        """Return `function(work, *inputs)`, from disk when it was already done with the same inputs.

        Raises:
            CorruptStep: the finished step's files were changed or lost.
            StorageError: the disk is full or the folder cannot be written.
        """
        kind = get_type_hints(function)["return"]
        key = step_key(function, inputs, options)
        folder = self.folder / name
        if (folder / "result.json").exists() and _record(folder)["key"] == key:
            self.log(step=name, event="reused")
        elif not self._taken_over(name, key, kind):
            self._do(name, key, function, *inputs, **options)
        # Always read back, so that a fresh result and a resumed one are the same value (256 is not 256.0).
        return cast(R, self.result(name, kind))

    def result(self, name: str, kind: type[R]) -> R:
        """A finished step's result, its files checked.

        Raises:
            CorruptStep: as `step`.
            ConfigError: the step is not done yet.
        """
        folder = self.folder / name
        if not (folder / "result.json").exists():
            raise ConfigError(f"{folder} is not done yet", hint="edgekd run goes on from where it stopped")
        record = _record(folder)
        try:
            result = decode(kind, record["result"], str(folder / "result.json"))
        except ConfigError as error:
            raise _corrupt(folder, str(error)) from error
        for file in files_of(result):
            self._check(file, folder)
        return result

    def forget(self, name: str) -> None:
        """Put a finished step aside, so that it is done again."""
        done = self.folder / name
        with storage_errors(done):
            if done.exists():
                done.rename(next(p for n in range(1, 10_000) if not (p := self.folder / f"{name}.old-{n}").exists()))

    def log(self, **event: Any) -> None:
        """Add a line to log.jsonl."""
        with storage_errors(self.folder), (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"at": time.strftime("%FT%T%z"), **event}) + "\n")

    def _do(self, name: str, key: str, function: Any, *inputs: Any, **options: Any) -> None:
        out = self.folder / f"{name}.partial-{key[:12]}"
        start = time.monotonic()
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            if not (out / "result.json").exists():  # else: killed between the last byte and the renaming
                self.log(step=name, event="started", key=key)
                result = function(Work(str(self.folder), name, str(out)), *inputs, **options)
                _keep(out, key, msgspec.to_builtins(result))
            self._put(out, name)
        self.log(step=name, event="done", key=key, seconds=round(time.monotonic() - start, 3))

    def _put(self, out: Path, name: str) -> None:
        """A finished folder in its place; what was there before is put aside."""
        self.forget(name)
        out.rename(self.folder / name)

    def _taken_over(self, name: str, key: str, kind: type[Any]) -> bool:
        """Whether another target's step is the same work, and now stands here too: its files by another name."""
        target, _, tail = name.partition("/")
        for other in sorted(self.folder.iterdir()) if tail else ():
            made = f"{other.name}/{tail}"
            if other.name == target or not (self.folder / made / "result.json").exists():
                continue
            try:
                if _record(self.folder / made)["key"] == key:
                    self._take_over(name, made, key, self.result(made, kind))
                    return True
            except CorruptStep:
                continue  # made anew here; whoever asks for the damaged one hears of it
        return False

    def _take_over(self, name: str, made: str, key: str, result: Any) -> None:
        ours, theirs = f"{name.partition('/')[0]}/", f"{made.partition('/')[0]}/"
        out = self.folder / f"{name}.partial-{key[:12]}"
        with storage_errors(out):
            discard(out)
            out.mkdir(parents=True)
            for file in files_of(result):
                if file.path.startswith(f"{made}/"):
                    self._link_members(file, self.folder / made, out)
            _keep(out, key, _moved(msgspec.to_builtins(result), theirs, ours))
            self._put(out, name)
        self.log(step=name, event="taken over", key=key, made=made)

    def _link_members(self, file: File, made: Path, out: Path) -> None:
        for member in members(self.folder / file.path):
            place = out / member.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(member, place)

    def _check(self, file: File, folder: Path) -> None:
        path = self.folder / file.path
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise _corrupt(folder, f"{file.path} points out of the run folder")
            if not path.exists():
                raise _corrupt(folder, f"{path} is lost")
            if content(path) != (file.size_bytes, file.sha256):
                raise _corrupt(folder, f"{path} was changed since it was made")
        except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or links in a circle
            raise _corrupt(folder, f"{path} cannot be read: {error}") from error


def _keep(out: Path, key: str, plain: Any) -> None:
    write_text(out / "result.json", dumps({"key": key, "result": plain, "seal": digest([key, plain])}))


def step_key(function: Callable[..., Any], inputs: Any, options: Any) -> str:
    """What makes a step's work the same work: its function, the VERSION of its module, and its input values."""
    module = inspect.getmodule(function)
    where = f"{function.__module__}.{function.__qualname__}"
    values = msgspec.to_builtins([list(inputs), dict(options)])
    return digest([where, getattr(module, "VERSION", 1), _without_places(values)])


def _without_places(value: Any) -> Any:
    """A value in which each file is known by its name and content."""
    return _with_paths(value, lambda path: path.rpartition("/")[2])


def _moved(value: Any, old: str, new: str) -> Any:
    """A value whose files are in another target's folder."""
    return _with_paths(value, lambda path: new + path.removeprefix(old) if path.startswith(old) else path)


def _with_paths(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        changed = {name: _with_paths(one, change) for name, one in value.items()}
        return {**changed, "path": change(value["path"])} if value.keys() == _FILE else changed
    return [_with_paths(one, change) for one in value] if isinstance(value, list | tuple) else value


def files_of(value: Any) -> Iterator[File]:
    """Every File inside a value."""
    if isinstance(value, File):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from files_of(getattr(value, field))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from files_of(item)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if record["seal"] != digest([record["key"], record["result"]]):
            raise _corrupt(folder, f"{folder / 'result.json'} was changed since it was made")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise _corrupt(folder, f"{folder / 'result.json'} cannot be read: {error!r}") from error
    return cast(dict[str, Any], record)


def _corrupt(folder: Path, what: str) -> CorruptStep:
    return CorruptStep(what, hint=f"delete {folder} to redo the step")
