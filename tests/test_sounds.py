"""The recipes `spoken-digits` and `keywords`: sound in, planes of numbers out, a student for small devices."""

import io
import os
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgekd
from edgekd.datasets import Arrays, spoken_digits
from edgekd.datasets.spoken_digits import ARCHIVE, CLASSES, MEAN, PLUGIN, STD, Options, log_mel, pack
from edgekd.errors import ConfigError, PluginUnavailable

NEEDS_DATA = pytest.mark.skipif(not PLUGIN.here(), reason=f"the recordings are not here: {PLUGIN.needs}")
BANDS, FRAMES = 32, 49


def middles_hz() -> NDArray[np.float64]:
    """Centres of the bands, from the inverse of the mel scale."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (20, 4000))
    mels = low + (high - low) * np.arange(1, BANDS + 1) / (BANDS + 1)
    centres: NDArray[np.float64] = 700 * (10 ** (mels / 2595) - 1)
    return centres


def tone(hertz: float) -> NDArray[np.float64]:
    wave_form: NDArray[np.float64] = np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
    return wave_form


def energies(planes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The bands' sums of magnitudes, before logarithm and normalisation."""
    logarithms = planes[:, 0] * np.array(STD)[:, None] + np.array(MEAN)[:, None]
    sums: NDArray[np.float64] = np.exp(logarithms.astype(np.float64)) - 0.01
    return sums


@pytest.fixture(scope="module")
def plain() -> Arrays:
    return PLUGIN.load(Options())


@pytest.mark.parametrize("band", [4, 9, 15, 22, 30])
def test_a_tone_is_heard_in_its_band(band: int) -> None:
    heard = energies(log_mel(tone(middles_hz()[band])[None]))[0]
    assert heard.shape == (BANDS, FRAMES)
    assert set(heard.argmax(0)) == {band}


def test_a_band_is_the_sum_that_the_formulas_say() -> None:
    sound = np.random.default_rng(0).normal(size=8000)
    band, frame = 11, 20
    piece = (sound / np.abs(sound).max())[frame * 160 : frame * 160 + 240]
    piece = piece * np.array([np.sin(np.pi * n / 240) ** 2 for n in range(240)])
    edges = [20, *middles_hz(), 4000]
    low, middle, high = (2595 * np.log10(1 + hertz / 700) for hertz in edges[band : band + 3])
    expected = 0.0
    for point in range(129):
        magnitude = abs(np.sum(piece * np.exp(-2j * np.pi * point * np.arange(240) / 256)))
        mel = 2595 * np.log10(1 + point * 8000 / 256 / 700)
        expected += magnitude * max(0.0, min((mel - low) / (middle - low), (high - mel) / (high - middle)))
    assert energies(log_mel(sound[None]))[0, band, frame] == pytest.approx(expected, rel=1e-3)


def test_loudness_does_not_matter_and_silence_is_a_number() -> None:
    sound = np.random.default_rng(1).normal(size=(1, 8000))
    np.testing.assert_allclose(log_mel(sound), log_mel(3000 * sound), atol=1e-4)
    silence = log_mel(np.zeros((2, 8000), np.int16))
    assert silence.shape == (2, 1, BANDS, FRAMES) and silence.dtype == np.float32
    np.testing.assert_allclose(energies(silence), 0, atol=1e-6)


@NEEDS_DATA
def test_the_split_is_the_publishers(plain: Arrays) -> None:
    assert plain.classes == CLASSES and "CC BY-SA 4.0" in plain.licence
    assert plain.train_inputs.shape == (2700, 1, BANDS, FRAMES)
    assert plain.test_inputs.shape == (300, 1, BANDS, FRAMES)
    assert np.bincount(plain.train_labels).tolist() == [270] * 10
    assert np.bincount(plain.test_labels).tolist() == [30] * 10


@NEEDS_DATA
def test_the_constants_are_those_of_the_training_split(plain: Arrays) -> None:
    np.testing.assert_allclose(plain.train_inputs.mean((0, 1, 3)), 0, atol=0.01)
    np.testing.assert_allclose(plain.train_inputs.std((0, 1, 3)), 1, atol=0.01)


@NEEDS_DATA
def test_copies_are_moved_and_noisy_and_the_test_split_has_none(plain: Arrays) -> None:
    more = PLUGIN.load(Options(copies=1))
    assert np.array_equal(more.test_inputs, plain.test_inputs)
    assert np.array_equal(more.train_labels, np.tile(plain.train_labels, 2))
    originals, copies = more.train_inputs[:2700], more.train_inputs[2700:]
    assert np.array_equal(originals, plain.train_inputs)
    before, after = energies(originals), energies(copies)
    assert np.mean(before > 1e-4) < 0.7 and np.mean(after > 1e-4) > 0.98, "no silence is left"
    moved = after.sum(1).argmax(1) - before.sum(1).argmax(1)  # frames of 20 ms; where two peaks are alike they may swap
    assert np.mean(np.abs(moved) <= 6) > 0.9 and np.mean(moved != 0) > 0.5
    assert np.isclose(np.mean(moved), 0, atol=0.5)


def test_without_the_file_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PluginUnavailable, match="is not there") as error:
        PLUGIN.load(Options(archive=str(tmp_path / ARCHIVE)))
    assert "EDGEKD_DATA" in error.value.hint


# --- files that somebody broke


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return path


def npy(array: NDArray[Any]) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def members(**other: bytes) -> dict[str, bytes]:
    """A small file of the right form."""
    right = {"audio": "<i2", "length": "<i8", "label": "|u1", "index": "|u1"}
    return {name: npy(np.arange(4).astype(kind)) for name, kind in right.items()} | other


def endless() -> bytes:
    """A header that claims 2**60 samples."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": "<i2", "fortran_order": False, "shape": (2**60,)})
    return written.getvalue()


BROKEN: dict[str, tuple[bytes | dict[str, bytes], str]] = {
    "no zip": (b"RIFF", "not a file of recordings"),
    "empty": (b"", "not a file of recordings"),
    "a member less": ({"audio": npy(np.zeros(4, "<i2"))}, "not a file of recordings.*length.npy"),
    "no array": (members(audio=b"audio"), "not a file of recordings"),
    "objects": (members(label=npy(np.array([{}, []], object))), "not a file of recordings.*allow_pickle"),
    "an endless array": (members(audio=endless()), "not a file of recordings"),
    "a bomb": (members(more=bytes(2**25)), "not a file of recordings: it unpacks to"),
    "other sounds": (members(), "other recordings than those of release 1.0.10"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BROKEN[case]
    path = tmp_path / ARCHIVE
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        npz(path, **content)
    with pytest.raises(ConfigError, match=message) as error:
        PLUGIN.load(Options(archive=str(path)))
    assert str(path) in str(error.value) and "\n" not in str(error.value) and error.value.hint


# --- packing


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(8000)
        opened.writeframes(samples.astype("<i2").tobytes())


@NEEDS_DATA
def test_the_published_recordings_are_packed_into_the_same_data(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    with np.load(Path(os.environ["EDGEKD_DATA"]) / ARCHIVE, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    clips = np.split(arrays["audio"], np.cumsum(arrays["length"])[:-1])
    for clip, *name in zip(clips, arrays["label"], arrays["speaker"], arrays["index"], strict=True):
        write_wav(recordings / f"{'_'.join(map(str, name))}.wav", clip)
    packed = pack(recordings, tmp_path / ARCHIVE)
    with np.load(packed, allow_pickle=False) as opened:
        assert set(opened.files) == set(arrays)
        for name, array in arrays.items():
            assert np.array_equal(opened[name], array) and opened[name].dtype == array.dtype
    assert spoken_digits.PLUGIN.load(Options(archive=str(packed))).test_labels.shape == (300,)
    (recordings / "7_theo_3.wav").unlink()
    with pytest.raises(ConfigError, match="2999 recordings, other than those of release"):
        pack(recordings, tmp_path / "less.npz")
    assert not (tmp_path / "less.npz").exists()


@pytest.mark.parametrize("name", ["seven.wav", "7_theo.wav", "7_theo_three.wav", "7_theo_300.wav"])
def test_a_folder_of_other_sounds_is_refused(name: str, tmp_path: Path) -> None:
    write_wav(tmp_path / name, np.arange(8, dtype=np.int16))
    with pytest.raises(ConfigError, match="not recordings of 16 bits called DIGIT_SPEAKER_NUMBER.wav"):
        pack(tmp_path, tmp_path / ARCHIVE)


def test_a_file_that_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "7_theo_3.wav").write_bytes(b"no sound")
    with pytest.raises(ConfigError, match="not recordings of 16 bits"):
        pack(tmp_path, tmp_path / ARCHIVE)
    with pytest.raises(ConfigError, match="0 recordings"):
        pack(tmp_path / "nowhere", tmp_path / ARCHIVE)


# --- the whole


@NEEDS_DATA
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_spoken_words_come_through_to_the_device(tmp_path: Path) -> None:
    result = edgekd.run("spoken-digits", "raspberry-pi-4", out=tmp_path / "run")
    summary = result.summary()
    assert summary["teacher"]["metrics"]["accuracy"] > 0.97
    assert summary["student"]["metrics"]["accuracy"] > 0.95
    assert summary["student"]["parameters"] < 100_000
    assert summary["preprocessing"] is None
    assert result.ok, summary["verdicts"]
    for artifact in summary["artifacts"]:
        assert artifact["metrics"]["accuracy"] >= summary["student"]["metrics"]["accuracy"] - 0.01
