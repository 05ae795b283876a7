"""Opens an .mlpackage: a folder of a manifest, a model and its weights."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import numpy as np
from msgspec import Meta

from edgekd.coreml.blobs import Weights
from edgekd.coreml.parse import parse
from edgekd.coreml.program import Program, quote
from edgekd.coreml.wire import decode
from edgekd.errors import ConfigError, ConvertError
from edgekd.files import decode_json, digest, read_text

LARGEST_MODEL_BYTES = 2**25
"""Of the program without its weights; those of large language models take one or two MiB."""

_WEIGHTS = re.compile(r"@model_path/(?P<path>[^\\\0]+)\Z")

_Text = Annotated[str, Meta(max_length=4096)]


class _Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    author: _Text = ""
    description: _Text = ""
    name: _Text = ""
    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    file_format_version: str
    item_info_entries: Annotated[dict[str, _Item], Meta(max_length=1000)]
    root_model_identifier: str


def open_package(path: Path) -> Program:
    """The program of an .mlpackage, whole and checked; weights are read into memory, nothing is executed.

    Raises:
        ConfigError: there is no such folder.
        ConvertError: it is not a package, holds something other than an ML program, or is damaged.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such package", hint="an .mlpackage is a folder with a Manifest.json in it")
    return _Package(path).program()


class _Package:
    """Notes what is read, so that its hash is that of what is executed."""

    def __init__(self, path: Path) -> None:
        self._path, self._root = path, path.resolve()
        self._digests: dict[str, str] = {}
        self._size_bytes = 0
        self._weights: dict[Path, Weights] = {}
        self._names: dict[str, Weights] = {}
        self._items: list[Path] = []

    def program(self) -> Program:
        model_path = self._model_path()
        if model_path.stat().st_size > LARGEST_MODEL_BYTES:
            self._fail(f"the model is larger than {LARGEST_MODEL_BYTES} bytes")
        model = decode(self._read(model_path), str(self._path))

        def weights(name: str) -> Weights:
            if name not in self._names:
                match = _WEIGHTS.match(name)
                if match is None:
                    self._fail(f"weights at {quote(name)}, which is not in the package")
                self._names[name] = self._load(self._inside(model_path.parent, match["path"]))
            return self._names[name]

        finish = parse(model, weights, str(self._path))
        return finish(digest(self._digests), self._size_bytes)

    def _model_path(self) -> Path:
        try:
            text = read_text(self._path / "Manifest.json")
            manifest = decode_json(_Manifest, text, str(self._path / "Manifest.json"))
        except ConfigError as error:
            raise ConvertError(str(error), hint=error.hint or "an .mlpackage has a Manifest.json in it") from error
        if not manifest.file_format_version.startswith("1."):
            self._fail(f"manifest of version {quote(manifest.file_format_version)}, not 1")
        root = manifest.item_info_entries.get(manifest.root_model_identifier)
        if root is None:
            self._fail("the manifest does not list its root model")
        self._note("Manifest.json", text.encode())
        self._items = [self._inside(self._path / "Data", item.path) for item in manifest.item_info_entries.values()]
        return self._inside(self._path / "Data", root.path, must_be_file=True)

    def _load(self, path: Path) -> Weights:
        if path not in self._weights:
            if not any(path.is_relative_to(item) for item in self._items):
                self._fail(f"the manifest does not list {path.relative_to(self._root)}")
            raw = np.frombuffer(bytearray(self._read(path)), np.uint8)
            self._weights[path] = Weights(raw, f"{self._path}: {path.relative_to(self._root)}")
        return self._weights[path]

    def _inside(self, folder: Path, name: str, *, must_be_file: bool = False) -> Path:
        """A path of the package, links followed, that does not leave the package."""
        try:
            found = (folder / name).resolve(strict=True)
            is_file = found.is_file()
        except (OSError, ValueError, RuntimeError):  # not there, not a path, a circle of links
            self._fail(f"{quote(name)} is missing")
        if not found.is_relative_to(self._root) or found == self._root:
            self._fail(f"{quote(name)} leaves the package")
        if must_be_file and not is_file:
            self._fail(f"{quote(name)} is not a file")
        return found

    def _read(self, path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConvertError(f"{path}: cannot be read: {error.strerror}") from error
        self._note(path.relative_to(self._root).as_posix(), content)
        return content

    def _note(self, name: str, content: bytes) -> None:
        self._digests[name] = hashlib.sha256(content).hexdigest()
        self._size_bytes += len(content)

    def _fail(self, what: str) -> NoReturn:
        raise ConvertError(f"{self._path}: {what}", hint="the package is damaged; write it again")
