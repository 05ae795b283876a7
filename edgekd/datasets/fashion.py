"""Fashion-MNIST: 70,000 pictures of clothes, 28x28, in ten classes (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747).

60,000 to train and 10,000 to test, as published. The four files are looked for in EDGEKD_DATA and where Debian's
package puts them; where they are in neither, they are fetched once from the publisher's repository.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import Arrays, Dataset
from edgekd.errors import ConfigError
from edgekd.fetch import fetch, fetched

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")
ADDRESS: Final = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
CLASSES: Final = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TRAIN, TEST = 60_000, 10_000
SIDE: Final = 28


class _Published(NamedTuple):
    """A file of the data set."""

    name: str
    size_bytes: int
    sha256: str
    """Of the file as it is published."""
    shape: tuple[int, ...]
    content_sha256: str
    """Of what it unpacks to: Debian packs the same into other bytes."""


FILES: Final = {
    "train_inputs": _Published(
        "train-images-idx3-ubyte.gz",
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        (TRAIN, 1, SIDE, SIDE),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train_labels": _Published(
        "train-labels-idx1-ubyte.gz",
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        (TRAIN,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "test_inputs": _Published(
        "t10k-images-idx3-ubyte.gz",
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        (TEST, 1, SIDE, SIDE),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "test_labels": _Published(
        "t10k-labels-idx1-ubyte.gz",
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        (TEST,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of it."""

    examples: Annotated[int, msgspec.Meta(ge=1, le=TRAIN)] = TRAIN
    """Of the training split: the first of them, which are in no order."""


class _Fashion:
    Options = Options
    licence = "MIT (Zalando SE)"
    needs = "apt install dataset-fashion-mnist, or a network to fetch 31 MB over"

    def here(self) -> bool:
        return all(_local(file) or fetched(_url(file), file.sha256) for file in FILES.values())

    def load(self, options: Any) -> Arrays:
        arrays = {
            name: _read(_local(file) or fetch(_url(file), file.sha256, file.size_bytes), file)
            for name, file in FILES.items()
        }
        return Arrays(
            arrays["train_inputs"][: options.examples],
            arrays["train_labels"][: options.examples].astype(np.int64),
            arrays["test_inputs"],
            arrays["test_labels"].astype(np.int64),
            CLASSES,
            self.licence,
        )


def _local(file: _Published) -> Path | None:
    """Where the file was put by hand or by Debian's package."""
    own = Path(os.environ.get("EDGEKD_DATA", "."))
    for path in (own / file.name, own / "fashion-mnist" / file.name, DEBIAN / file.name):
        if path.is_file():
            return path
    return None


def _url(file: _Published) -> str:
    return f"{ADDRESS}/{file.name}"


def _read(path: Path, file: _Published) -> NDArray[np.uint8]:
    """The array of an IDX file, whose header is 4 bytes, and 4 more for each axis (Y. LeCun, "The MNIST database")."""
    size = int(np.prod(file.shape))
    header = 16 if len(file.shape) > 1 else 8
    try:
        with gzip.open(path) as opened:
            content = opened.read(header + size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be unpacked: {error}", hint="remove it, and it is fetched") from error
    if hashlib.sha256(content).hexdigest() != file.content_sha256:
        raise ConfigError(f"{path} is not the file of Fashion-MNIST", hint="remove it, and it is fetched")
    return np.frombuffer(content, np.uint8, offset=header).reshape(file.shape)


PLUGIN: Final[Dataset] = _Fashion()
