"""2,062 RGB photos, 100x100, of the hand signs for 0 to 9 (A. Mavi, "Sign Language Digits Dataset", 2017)."""

import os
import tarfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgekd.datasets import Arrays, Dataset, split
from edgekd.datasets._images import decode
from edgekd.errors import PluginUnavailable

ARCHIVE = "sign_digits_2062_rgb100.tar.xz"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the archive is."""

    archive: str = ""
    """Path of the .tar.xz with `<digit>/*.JPG` in it; "" looks in the folder that EDGEKD_DATA names."""


class _SignDigits:
    Options = Options
    licence = "Apache-2.0 (A. Mavi)"
    needs = f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it"

    def here(self) -> bool:
        return _archive("").is_file()

    def load(self, options: Any) -> Arrays:
        archive = _archive(options.archive)
        if not archive.is_file():
            raise PluginUnavailable(f"{archive} is not there", hint=f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it")
        with tarfile.open(archive) as opened:  # members are read, never extracted
            photos = sorted(
                (member.name, stream.read())
                for member in opened
                if member.isfile() and member.name.lower().endswith(".jpg") and (stream := opened.extractfile(member))
            )
        labels = np.array([int(Path(name).parent.name) for name, _ in photos])
        images = decode(photos, 100)
        train, test = split(labels, test_share=0.2, seed=0)
        classes = tuple(str(digit) for digit in range(10))
        return Arrays(images[train], labels[train], images[test], labels[test], classes, self.licence)


def _archive(named: str) -> Path:
    return Path(named) if named else Path(os.environ.get("EDGEKD_DATA", ".")) / ARCHIVE


PLUGIN: Final[Dataset] = _SignDigits()
