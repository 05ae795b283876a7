"""The data set `fashion`: found on this machine or fetched, and what is something else is refused."""

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.datasets import fashion
from edgekd.datasets.fashion import DEBIAN, FILES, PLUGIN, Options, _Published
from edgekd.errors import ConfigError

NEEDS_DEBIAN = pytest.mark.skipif(not DEBIAN.is_dir(), reason="apt install dataset-fashion-mnist")


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Yann LeCun's format: two zeros, 8 for bytes, the number of axes, their sizes."""
    axes = [size for size in array.shape if size != 1]
    return struct.pack(f">BBBB{len(axes)}I", 0, 0, 8, len(axes), *axes) + array.tobytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A data set of 6 and 4 pictures in place of the published one; it is nowhere yet."""
    random = np.random.default_rng(0)
    files, packed = {}, {}
    for name, published in FILES.items():
        shape = (6 if "train" in name else 4, *published.shape[1:])
        content = idx(random.integers(0, 10, shape, np.uint8))
        packed[published.name] = gzip.compress(content, mtime=0)
        sha256, content_sha256 = (hashlib.sha256(one).hexdigest() for one in (packed[published.name], content))
        files[name] = _Published(published.name, len(packed[published.name]), sha256, shape, content_sha256)
    monkeypatch.setattr(fashion, "FILES", files)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "no debian")
    monkeypatch.setenv("EDGEKD_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    return packed


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for the publisher's."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setattr(fashion, "ADDRESS", f"http://127.0.0.1:{running.server_port}")
        yield folder
        running.shutdown()
        thread.join()


def put(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("place", ["own", "own/fashion-mnist"])
def test_files_that_were_put_by_hand_are_found(place: str, tiny: dict[str, bytes], tmp_path: Path) -> None:
    assert not PLUGIN.here()
    put(tiny, tmp_path / place)
    assert PLUGIN.here()
    arrays = PLUGIN.load(Options(examples=5))
    assert arrays.train_inputs.shape == (5, 1, 28, 28) and arrays.test_inputs.shape == (4, 1, 28, 28)
    assert isinstance(arrays.train_labels, np.ndarray) and arrays.train_labels.shape == (5,)
    assert arrays.train_inputs.tobytes() in gzip.decompress(tiny["train-images-idx3-ubyte.gz"])


def test_what_is_not_here_is_fetched_once(tiny: dict[str, bytes], served: Path) -> None:
    put(tiny, served)
    first = PLUGIN.load(Options())
    assert PLUGIN.here()
    for file in served.iterdir():
        file.unlink()
    assert np.array_equal(PLUGIN.load(Options()).test_inputs, first.test_inputs)


def test_another_file_than_the_published_one_is_refused(tiny: dict[str, bytes], served: Path, tmp_path: Path) -> None:
    put(tiny, served)
    (served / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other", mtime=0))
    with pytest.raises(ConfigError, match="t10k-labels-idx1-ubyte.gz is not what was named"):
        PLUGIN.load(Options())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "cannot be unpacked"),
        (gzip.compress(b"x" * 500, mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(bytes(10_000_000), mtime=0), "is not the file of Fashion-MNIST"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, message: str, tiny: dict[str, bytes], tmp_path: Path) -> None:
    put(tiny | {"train-images-idx3-ubyte.gz": content}, tmp_path / "own")
    with pytest.raises(ConfigError, match=f"train-images-idx3-ubyte.gz:? {message}") as raised:
        PLUGIN.load(Options())
    assert "remove it" in raised.value.hint


@NEEDS_DEBIAN
def test_the_published_files_are_those_of_debian_with_another_head(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian packed them again without name and time, so what is fetched can be put together from them."""
    for name, file in FILES.items():
        packed_at = 1504176606 if "train" in name else 1504176627
        head = (
            struct.pack("<4sIBB", b"\x1f\x8b\x08\x08", packed_at, 0, 3) + file.name.removesuffix(".gz").encode() + b"\0"
        )
        (served / file.name).write_bytes(head + (DEBIAN / file.name).read_bytes()[10:])
    monkeypatch.setenv("EDGEKD_CACHE", str(served / "cache"))
    here = PLUGIN.load(Options(examples=100))
    monkeypatch.setattr(fashion, "DEBIAN", served / "nowhere")
    monkeypatch.setenv("EDGEKD_DATA", str(served / "nowhere"))
    fetched = PLUGIN.load(Options(examples=100))
    assert np.array_equal(fetched.train_inputs, here.train_inputs)
    assert np.array_equal(fetched.test_labels, here.test_labels)
    assert np.bincount(np.asarray(here.test_labels)).tolist() == [1000] * 10
