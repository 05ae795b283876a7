"""2,279 recordings of 6 wake words by more than 50 people, 16 kHz (Picovoice, "wake-word-benchmark", crowd-sourced).

The archive holds `WORD/NAME.ogg`. It does not say who speaks, so every fifth name of a word is in the test, and a voice
may be in both splits: an accuracy on it says nothing about a voice that was never heard.

A model of these data is asked about `log_mel` of three seconds of sound: an application computes the same on its
device.
"""

import io
import os
import tarfile
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._sound import Ear, centred, copies
from edgekd.datasets._sound import log_mel as planes
from edgekd.errors import ConfigError, PluginUnavailable

ARCHIVE: Final = "wakeword_6x380_16k_ogg.tar"
CLASSES: Final = ("alexa", "computer", "jarvis", "smart_mirror", "snowboy", "view_glass")
TEST_EVERY: Final = 5
LARGEST_FILE_BYTES: Final = 2**20

EAR: Final = Ear(
    rate_hz=16000,
    clip=48000,
    window=480,
    stride=320,
    fft=512,
    bands=40,
    lowest_hz=60.0,
    highest_hz=7600.0,
    mean=-2.75,  # the nearest quarters to what the training split has
    std=2.0,
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the archive is, and how the training clips are multiplied."""

    archive: str = ""
    """Path of the .tar; "" looks in the folder that EDGEKD_DATA names."""
    copies: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    """Of each training clip, besides itself: shifted by up to a tenth of a second, with noise."""


class _WakeWords:
    Options = Options
    licence = "Apache-2.0"
    needs = f"export EDGEKD_DATA=FOLDER, with {ARCHIVE} in it; pip install soundfile"

    def here(self) -> bool:
        import importlib.util

        return _archive("").is_file() and importlib.util.find_spec("soundfile") is not None

    def load(self, options: Any) -> Arrays:
        archive = _archive(options.archive)
        if not archive.is_file():
            raise PluginUnavailable(f"{archive} is not there", hint=self.needs)
        clips, labels = _read(archive)
        test = np.arange(len(clips)) % TEST_EVERY == 0
        training = [clip for clip, held in zip(clips, test, strict=True) if not held]
        sounds = [centred(training, EAR)]
        sounds += [copies(training, EAR, np.random.default_rng(copy)) for copy in range(options.copies)]
        return Arrays(
            np.concatenate([log_mel(sound) for sound in sounds]),
            np.tile(labels[~test], len(sounds)),
            log_mel(centred([clip for clip, held in zip(clips, test, strict=True) if held], EAR)),
            labels[test],
            CLASSES,
            self.licence,
        )


def log_mel(sounds: NDArray[Any]) -> NDArray[np.float32]:
    """What a model hears of sounds of three seconds each: shape (sounds, 48000) in any unit -> (sounds, 1, 40, 149).

    149 spectra of 512 points, 40 bands between 60 and 7600 Hz: see `edgekd.datasets._sound.log_mel`.
    """
    return planes(sounds, EAR)


def _archive(named: str) -> Path:
    return Path(named) if named else Path(os.environ.get("EDGEKD_DATA", ".")) / ARCHIVE


def _read(archive: Path) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Clips in -1..1 and the numbers of their words, by word and name; members are read, never extracted."""
    found = []
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                path = Path(member.name)
                if not member.isfile() or path.suffix != ".ogg" or path.parent.name not in CLASSES:
                    continue
                if member.size > LARGEST_FILE_BYTES:
                    raise ConfigError(f"{archive}: {member.name!r} is no recording of three seconds")
                stream = opened.extractfile(member)
                assert stream is not None
                clip = _decoded(stream.read(), f"{archive}, {member.name}")
                found.append((CLASSES.index(path.parent.name), path.stem, clip))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(f"{archive}: not a whole archive: {error}", hint="copy it again") from error
    if {word for word, _, _ in found} != set(range(len(CLASSES))):
        raise ConfigError(f"{archive}: recordings of {len({word for word, _, _ in found})} words, not of 6")
    found.sort(key=lambda one: one[:2])
    return [clip for _, _, clip in found], np.array([word for word, _, _ in found], np.int64)


def _decoded(content: bytes, name: str) -> NDArray[np.float32]:
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True, frames=EAR.clip)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ConfigError(f"{name}: not a sound that can be read: {error}", hint="copy the archive again") from error
    if rate != EAR.rate_hz:
        raise ConfigError(f"{name}: {rate} samples a second, not {EAR.rate_hz}")
    first: NDArray[np.float32] = samples[:, 0]
    return first


PLUGIN: Final[Dataset] = _WakeWords()
