"""What nets of sound hear: log-mel planes of clips of one length."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

FLOOR = 0.01
"""Added before the logarithm; magnitudes of a clip whose peak is 1 reach 100."""
LARGEST_SHIFT_S = 0.1
NOISE_DB = (-80.0, -30.0)
"""Deviation of the copies' white noise, below the clip's peak."""


class Ear(msgspec.Struct, frozen=True):
    """How sound becomes a plane; lengths in samples."""

    rate_hz: int
    clip: int
    window: int
    stride: int
    fft: int
    bands: int
    lowest_hz: float
    highest_hz: float
    mean: NDArray[np.float32] | float
    """Of the logarithms, a value or one a band."""
    std: NDArray[np.float32] | float

    @property
    def frames(self) -> int:
        """Columns of a plane."""
        return (self.clip - self.window) // self.stride + 1


def log_mel(sounds: NDArray[Any], ear: Ear) -> NDArray[np.float32]:
    """Sounds of shape (sounds, ear.clip), in any unit, to planes (sounds, 1, bands, frames).

    A sound is divided by its peak. Magnitudes of spectra (periodic Hann window) are summed in triangles that lie evenly
    on HTK's mel scale, 2595 log10(1 + f / 700) (Young et al., The HTK Book 3.5, 5.4); their natural logarithm, after
    0.01 is added, is normalised.
    """
    weights, window = triangles(ear), _hann(ear.window)
    mean, std = (np.asarray(one, np.float32).reshape(-1, 1) for one in (ear.mean, ear.std))
    planes = np.empty((len(sounds), 1, ear.bands, ear.frames), np.float32)
    for plane, sound in zip(planes, sounds, strict=True):
        samples = sound.astype(np.float32)
        samples /= max(float(np.abs(samples).max()), np.finfo(np.float32).tiny)
        frames = np.lib.stride_tricks.sliding_window_view(samples, ear.window)[:: ear.stride] * window
        magnitudes = np.abs(np.fft.rfft(frames, ear.fft)).astype(np.float32)
        plane[0] = (np.log((magnitudes @ weights).T + FLOOR) - mean) / std
    return planes


def centred(clips: list[NDArray[Any]], ear: Ear, shifts: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """The clips in the middle of one length, moved by `shifts` samples; silence around them, overhang cut off."""
    sounds = np.zeros((len(clips), ear.clip), np.float32)
    moved = np.zeros(len(clips), np.int64) if shifts is None else shifts
    for sound, clip, shift in zip(sounds, clips, moved, strict=True):
        start = (ear.clip - len(clip)) // 2 + int(shift)
        first, last = max(0, start), min(ear.clip, start + len(clip))
        sound[first:last] = clip[first - start : last - start]
    return sounds


def copies(clips: list[NDArray[Any]], ear: Ear, chance: np.random.Generator) -> NDArray[np.float32]:
    """The clips once more, each shifted by up to a tenth of a second, with white noise."""
    largest = int(LARGEST_SHIFT_S * ear.rate_hz)
    sounds = centred(clips, ear, chance.integers(-largest, largest, len(clips), endpoint=True))
    deviations = np.abs(sounds).max(1) * 10 ** (chance.uniform(*NOISE_DB, len(clips)) / 20)
    sounds += chance.standard_normal(sounds.shape, dtype=np.float32) * deviations[:, None].astype(np.float32)
    return sounds


def triangles(ear: Ear) -> NDArray[np.float32]:
    """Weights of shape (points of the spectrum, bands); the triangles are straight on the mel scale."""
    corners = np.linspace(_mel(ear.lowest_hz), _mel(ear.highest_hz), ear.bands + 2)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    points = _mel(np.arange(ear.fft // 2 + 1) * ear.rate_hz / ear.fft)[:, None]
    slopes = np.minimum((points - low) / (middle - low), (high - points) / (high - middle))
    return np.maximum(slopes, 0).astype(np.float32)  # type: ignore[no-any-return]  # numpy's stub


def _hann(window: int) -> NDArray[np.float32]:
    shape: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    return shape


def _mel(hertz: Any) -> Any:
    return 2595 * np.log10(1 + hertz / 700)
