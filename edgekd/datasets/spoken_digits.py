"""3,000 spoken digits of 6 speakers, 8 kHz (Z. Jackson and others, "Free Spoken Digit Dataset", release 1.0.10).

The file that holds them is packed once, from the recordings as they are published, and put where EDGEKD_DATA says:

    git clone --branch v1.0.10 https://github.com/Jakobovski/free-spoken-digit-dataset
    python -c "from edgekd.datasets.spoken_digits import pack; pack('free-spoken-digit-dataset/recordings')"

The split is the publisher's: recordings 0 to 4 of each digit and speaker are the test. Both splits have the same six
speakers, so an accuracy on it says nothing about a voice that was never heard.

A model of these data is asked about `log_mel` of a second of sound: an application computes the same on its device.
"""

import hashlib
import lzma
import os
import wave
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._sound import Ear, centred, copies
from edgekd.datasets._sound import log_mel as planes
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import replacing

ARCHIVE: Final = "fsdd_3000_8k.npz"
CONTENT_SHA256: Final = "0faafba68be0e8f7c48fbc18368c2f559238b17b96e44c4fdd9dc447fc7fcf26"
"""Of the arrays, not of the file: zlib may pack the same recordings into other bytes."""
LARGEST_CONTENT_BYTES: Final = 32 * 2**20
CLASSES: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_RECORDINGS: Final = 5
"""Of each digit and speaker."""

BANDS: Final = 32
MEAN: Final = (
    -2.96, -2.54, -2.33, -2.38, -2.35, -2.29, -2.34, -2.29, -2.34, -2.54, -2.61, -2.70, -2.76, -2.83, -2.88, -2.91,
    -2.92, -2.92, -2.88, -2.82, -2.80, -2.79, -2.79, -2.77, -2.77, -2.75, -2.72, -2.77, -2.80, -2.76, -2.76, -2.89,
)  # fmt: skip
"""Of each band's logarithms over the training split, without copies."""
STD: Final = (
    2.10, 2.54, 2.73, 2.68, 2.73, 2.82, 2.78, 2.83, 2.78, 2.57, 2.49, 2.38, 2.31, 2.22, 2.15, 2.10,
    2.09, 2.10, 2.14, 2.20, 2.22, 2.23, 2.22, 2.21, 2.19, 2.22, 2.26, 2.21, 2.20, 2.25, 2.25, 2.12,
)  # fmt: skip

EAR: Final = Ear(
    rate_hz=8000,
    clip=8000,
    window=240,  # 30 ms, every 20 ms, as in MLPerf Tiny's keyword benchmark (Banbury et al. 2021, arXiv:2106.07597)
    stride=160,
    fft=256,
    bands=BANDS,
    lowest_hz=20.0,
    highest_hz=4000.0,
    mean=np.array(MEAN, np.float32),
    std=np.array(STD, np.float32),
)

_MEMBERS = ("audio", "length", "label", "index")
_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,  # encrypted, or packed by a method that zipfile does not know
    MemoryError,  # a header that claims more than there is
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the archive is, and how the training clips are multiplied."""

    archive: str = ""
    """Path of the .npz; "" looks in the folder that EDGEKD_DATA names."""
    copies: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    """Of each training clip, besides itself: shifted by up to a tenth of a second, with noise. Views, which do this
    for images, leave sound as it is. Probes of a plan would hold copies of what they learn from: prefer "most capable
    within the budget" beside them."""


class _SpokenDigits:
    Options = Options
    licence = "CC BY-SA 4.0 (Z. Jackson and others)"
    needs = f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it"

    def here(self) -> bool:
        return _archive("").is_file()

    def load(self, options: Any) -> Arrays:
        archive = _archive(options.archive)
        if not archive.is_file():
            raise PluginUnavailable(f"{archive} is not there", hint=f"{self.needs}; {__name__} says how to make it")
        recordings = _read(archive)
        clips = np.split(recordings["audio"], np.cumsum(recordings["length"])[:-1])
        labels = recordings["label"].astype(np.int64)
        test = np.flatnonzero(recordings["index"] < TEST_RECORDINGS)
        train = np.flatnonzero(recordings["index"] >= TEST_RECORDINGS)
        training = [clips[index] for index in train]
        sounds = [centred(training, EAR)]
        sounds += [copies(training, EAR, np.random.default_rng(copy)) for copy in range(options.copies)]
        return Arrays(
            np.concatenate([log_mel(sound) for sound in sounds]),
            np.tile(labels[train], len(sounds)),
            log_mel(centred([clips[index] for index in test], EAR)),
            labels[test],
            CLASSES,
            self.licence,
        )


def log_mel(sounds: NDArray[Any]) -> NDArray[np.float32]:
    """What a model hears of sounds of one second each: shape (sounds, 8000) in any unit -> (sounds, 1, 32, 49).

    49 spectra of 256 points, 32 bands between 20 and 4000 Hz: see `edgekd.datasets._sound.log_mel`. The order of steps
    is that of MLPerf Tiny's keyword benchmark up to its cosine transform.
    """
    return planes(sounds, EAR)


def _archive(named: str) -> Path:
    return Path(named) if named else Path(os.environ.get("EDGEKD_DATA", ".")) / ARCHIVE


def _read(archive: Path) -> dict[str, NDArray[Any]]:
    """The recordings: samples one after the other, and of each its length, digit and number."""
    try:
        with zipfile.ZipFile(archive) as opened:
            content_bytes = sum(member.file_size for member in opened.infolist())
            if content_bytes > LARGEST_CONTENT_BYTES:
                raise ValueError(f"it unpacks to {content_bytes} bytes")
            arrays = {name: _member(opened, f"{name}.npy") for name in _MEMBERS}
    except _UNREADABLE as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{archive}: not a file of recordings: {line}", hint="pack it again, or copy it") from error
    if _sha256(arrays) != CONTENT_SHA256:
        raise ConfigError(
            f"{archive}: other recordings than those of release 1.0.10, or a damaged file",
            hint="pack it again; own recordings are a data set of their own: `dataset = { name = 'own.py:function' }`",
        )
    return arrays


def _member(opened: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with opened.open(name) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)  # type: ignore[no-untyped-call]  # numpy
    return array


def _sha256(arrays: dict[str, NDArray[Any]]) -> str:
    content = hashlib.sha256()
    for name in _MEMBERS:
        content.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        content.update(arrays[name].tobytes())
    return content.hexdigest()


def pack(recordings: str | Path, into: str | Path = ARCHIVE) -> Path:
    """Pack the folder `recordings` of the published data set into the file that `load` reads; its path.

    Raises:
        ConfigError: the folder holds other recordings than those of release 1.0.10.
    """
    try:
        files = sorted(Path(recordings).glob("*.wav"))
        names = [path.stem.split("_") for path in files]
        clips = [_samples(path) for path in files]
        arrays: dict[str, NDArray[Any]] = {
            "audio": np.concatenate([np.empty(0, "<i2"), *clips]),
            "length": np.array([len(clip) for clip in clips], "<i8"),
            "label": np.array([int(digit) for digit, _, _ in names], np.uint8),
            "index": np.array([int(index) for _, _, index in names], np.uint8),
        }
    except (OSError, EOFError, ValueError, OverflowError, wave.Error) as error:
        raise ConfigError(
            f"{recordings}: not recordings of 16 bits called DIGIT_SPEAKER_NUMBER.wav: {error}"
        ) from error
    if _sha256(arrays) != CONTENT_SHA256:
        raise ConfigError(
            f"{recordings}: {len(clips)} recordings, other than those of release 1.0.10",
            hint="git clone --branch v1.0.10 https://github.com/Jakobovski/free-spoken-digit-dataset",
        )
    path = Path(into)
    with replacing(path) as part, part.open("wb") as opened:
        np.savez_compressed(opened, allow_pickle=False, speaker=np.array([name[1] for name in names]), **arrays)
    return path


def _samples(path: Path) -> NDArray[np.int16]:
    """The first channel of a recording."""
    with wave.open(str(path)) as opened:
        samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
        return samples.reshape(-1, opened.getnchannels())[:, 0]


PLUGIN: Final[Dataset] = _SpokenDigits()
