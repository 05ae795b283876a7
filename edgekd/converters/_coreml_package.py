"""Writes .mlpackage folders, equal bytes for equal models; coremltools' own have the date and random numbers."""

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekd.coreml import CONSTANTS, LAYERS
from edgekd.files import dumps, file_digest

_DATE: Final = "com.github.apple.coremltools.conversion_date"
_AUTHOR: Final = "com.apple.CoreML"


def write_package(
    specification: Any, weights: Path, properties: Mapping[str, str], layers: Mapping[str, str], out: Path
) -> None:
    """Write the folder `out`, with the weights where there are any."""
    if weights.is_file():
        properties = {**properties, CONSTANTS: file_digest(weights)}
    _describe(specification.description.metadata, properties, layers)
    content = specification.SerializeToString(deterministic=True)
    folder = out / "Data" / _AUTHOR
    folder.mkdir(parents=True)
    (folder / "model.mlmodel").write_bytes(content)
    items = {"model.mlmodel": "CoreML Model Specification"}
    if weights.is_file():
        (folder / "weights").mkdir()
        shutil.copyfile(weights, folder / "weights" / weights.name)
        items["weights"] = "CoreML Model Weights"
    (out / "Manifest.json").write_text(dumps(_manifest(items, hashlib.sha256(content).hexdigest())), encoding="utf-8")


def _describe(metadata: Any, properties: Mapping[str, str], layers: Mapping[str, str]) -> None:
    """What Xcode shows of a model, and all the rest as the user's own keys."""
    metadata.license = properties.get("edgekd.licence", "")
    metadata.shortDescription = properties.get("edgekd.title", "")
    metadata.userDefined.pop(_DATE, None)
    metadata.userDefined.update(properties)
    metadata.userDefined[LAYERS] = msgspec.json.encode(dict(layers), order="sorted").decode()


def _manifest(items: Mapping[str, str], digest: str) -> dict[str, Any]:
    """The package's list of its parts, under identifiers that come of the content."""
    keys = {name: str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest}/{name}")) for name in items}
    entries = {
        keys[name]: {"author": _AUTHOR, "description": description, "name": name, "path": f"{_AUTHOR}/{name}"}
        for name, description in items.items()
    }
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": keys["model.mlmodel"]}
