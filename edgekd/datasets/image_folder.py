"""Your own photos: one folder a class, any of JPEG, PNG, BMP or WebP in it."""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from edgekd.datasets import Arrays, Dataset, split
from edgekd.datasets._images import decode
from edgekd.errors import ConfigError

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the photos are."""

    path: str
    size: Annotated[int, msgspec.Meta(ge=8, le=1024)] = 96
    """Height and width, in pixels, that they are kept at."""
    test_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    licence: str = "yours"


class _ImageFolder:
    Options = Options
    licence = "yours"
    needs = "a folder of photos"

    def here(self) -> bool:
        return True

    def load(self, options: Any) -> Arrays:
        root = Path(options.path).expanduser()
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder", hint="options.path is the folder that holds a folder a class")
        classes = sorted(
            folder.name for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith(".")
        )
        files = [
            (index, path)
            for index, name in enumerate(classes)
            for path in sorted((root / name).iterdir())
            if path.suffix.lower() in _ENDINGS
        ]
        if not files:
            raise ConfigError(f"{root}: no images in folders below it", hint="one folder a class, images in it")
        images = decode(((str(path), path.read_bytes()) for _, path in files), options.size)
        labels = np.array([index for index, _ in files])
        train, test = split(labels, options.test_share, options.split_seed)
        return Arrays(images[train], labels[train], images[test], labels[test], tuple(classes), options.licence)


PLUGIN: Final[Dataset] = _ImageFolder()
