"""TOML and JSON <-> nouns, strictly: an unknown key is an error with "did you mean", never a silent default."""

import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from edgekd.errors import ConfigError, StorageError
from edgekd.specs import Recipe, Spec, Target

T = TypeVar("T")

SCHEMAS: dict[type[Spec], int] = {Recipe: 1, Target: 1}
"""The newest schema number of each kind of file that people write."""

DEEPEST_KEY = 1000
"""Dots in a line of TOML."""

LARGEST_TEXT = 16 * 2**20
"""Bytes; a recipe, target or result above this is refused unread."""


def load_toml(kind: type[T], path: Path) -> T:
    """Read a recipe or target.

    Raises:
        ConfigError: no such file, not TOML, or not a valid `kind`.
    """
    text = read_text(path)
    if max(map(_dots, text.splitlines()), default=0) > DEEPEST_KEY:  # tomllib keeps every beginning of a dotted key
        raise ConfigError(f"{path}: nested too deeply")
    try:
        plain = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python reads
        raise ConfigError(f"{path}: not TOML: {error}", hint="see a shipped one: `edgekd targets`") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    _check_schema(kind, plain, str(path))
    return decode(kind, plain, str(path))


def _dots(line: str) -> int:
    return line.count(".")


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file.

    Raises:
        ConfigError: it is not there, not readable, too large, or not UTF-8.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        if path.stat().st_size > LARGEST_TEXT:
            raise ConfigError(f"{path}: larger than {LARGEST_TEXT} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def decode(kind: type[T], plain: Any, where: str) -> T:
    """Build `kind` from plain data; `where` names the file in error messages.

    Raises:
        ConfigError: names the key, what was expected, and the likely key where one is unknown.
    """
    try:
        return msgspec.convert(plain, kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        message, hint = _explain(kind, str(error))
        raise ConfigError(f"{where}: {message}", hint=hint) from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error


def decode_json(kind: type[T], text: bytes | str, where: str) -> T:
    """As `decode`, from JSON text."""
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error
    return decode(kind, plain, where)


def dumps(value: Any) -> str:
    """Stable JSON text: equal values give equal bytes.

    Raises:
        ConfigError: the value holds an infinite number, which JSON has not.
    """
    plain = msgspec.to_builtins(value, order="deterministic")
    try:
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        text.encode()
        return text
    except ValueError as error:
        raise ConfigError(f"cannot be written as JSON: {error}") from error


def digest(value: Any) -> str:
    """SHA-256 of a value's stable text."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def members(path: Path) -> tuple[Path, ...]:
    """The files that a model is made of, sorted: itself, all files of its folder, or an OpenVINO .xml and its .bin."""
    if path.is_dir():
        return tuple(sorted(one for one in path.rglob("*") if one.is_file()))
    weights = path.with_suffix(".bin")
    return (path, weights) if path.suffix == ".xml" and weights.is_file() else (path,)


def discard(path: Path) -> None:
    """Remove a model, whether it is a file, several, or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    for part in members(path):
        part.unlink(missing_ok=True)


def content(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a model, over all its members where there are several."""
    parts = members(path)
    if parts == (path,):
        return path.stat().st_size, file_digest(path)
    listed = [[part.relative_to(path.parent).as_posix(), file_digest(part)] for part in parts]
    return sum(part.stat().st_size for part in parts), digest(listed)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes when it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage_errors(path):
        try:
            yield part
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is either whole or not there."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def link(source: Path, target: Path) -> None:
    """Make a file known by another name, where the file system allows that; else copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        with replacing(target) as part:
            shutil.copyfile(source, part)


_UNLINKABLE = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


@contextmanager
def storage_errors(path: Path, hint: str = "") -> Iterator[None]:
    """Turn the operating system's refusals to write into StorageError; `hint` takes the place of the usual ones."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            again = "free some space and run the same command again; it goes on from there"
            raise StorageError(f"no space left on the disk of {path}", hint=hint or again) from error
        if error.errno in _CLOSED:
            raise StorageError(
                f"cannot write {path}: {os.strerror(error.errno)}", hint=hint or "choose another folder with -o"
            ) from error
        raise


def _check_schema(kind: type[Any], plain: dict[str, Any], where: str) -> None:
    newest, found = SCHEMAS.get(kind), plain.get("schema")
    if newest and isinstance(found, int) and found > newest:
        raise ConfigError(
            f"{where}: schema {min(found, 2**63)} is newer than this edgekd knows ({newest})", hint="upgrade edgekd"
        )


_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>.*)`$", re.DOTALL)
_PLACE = re.compile(r"^(?P<what>.*?) - at `\$(?P<path>.*)`$", re.DOTALL)


def _explain(kind: Any, message: str) -> tuple[str, str]:
    """msgspec's message as `place: what`, and a hint."""
    found = _PLACE.match(message)
    what, path = (found["what"], found["path"].lstrip(".")) if found else (message, "")
    unknown = _UNKNOWN.match(what)
    hint = ""
    if unknown:
        known = sorted(_fields_at(kind, path))
        close = difflib.get_close_matches(unknown["key"], known, n=1)
        what = f"unknown key {unknown['key']!r}"
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    elif what.startswith("Object missing required field"):
        what = f"missing key {what.split('`')[1]!r}"
    else:
        what = what.replace("`", "'").replace("Expected", "expected")
    return (f"{path}: {what}" if path else what), hint


def _fields_at(kind: Any, path: str) -> set[str]:
    """Names of the fields of the noun that stands at a msgspec path such as `student.training` or `losses[...]`."""
    kinds = [kind]
    for part in filter(None, re.split(r"[.\[]", path)):
        inner = []
        for one in map(_bare, kinds):
            if part.endswith("]"):
                inner += [argument for argument in get_args(one) if argument is not Ellipsis]
            elif isinstance(one, type) and issubclass(one, msgspec.Struct):
                inner += [field.type for field in msgspec.structs.fields(one) if field.name == part]
        kinds = [alternative for one in inner for alternative in _alternatives(one)]
    structs = [one for one in map(_bare, kinds) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return {name for one in structs for name in one.__struct_fields__}


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
