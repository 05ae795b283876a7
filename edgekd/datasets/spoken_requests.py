"""Requests to an assistant, clinc150's, as four voices say them that flite synthesises (Black and Lenzo 2001, "Flite: a
small fast run-time synthesis engine"): what a net that transcribes learns from where nobody has recorded anything.

An example is a log-mel plane of Whisper's, (80, frames), of a window that is longer than the sound: without silence
behind it Whisper says things twice. Beside it stand tokens: Whisper's four that ask for a transcript, the text, its
end. No sentence of the test split is in the training split; the voices are the same, each faster or slower, higher or
lower from sentence to sentence.

The vocabulary is Whisper's, cut down to its most frequent pieces, among them all bytes, and those of the training
texts, so that everything can be written. Sounds are synthesised once, on all cores, and kept in the user's cache.
"""

import re
import shutil
import wave
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgekd import caches, whisper_base
from edgekd.caches import Site, cache
from edgekd.datasets import Arrays, Beside, Dataset, _text, clinc150
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import digest, file_digest
from edgekd.pieces import END
from edgekd.progress import tell
from edgekd.tensors import following
from edgekd.whisper_base import tokenizer
from edgekd.workers import call, cores, together

VERSION: Final = 1
"""Of what is said; another one makes new sounds."""
PROGRAM: Final = "flite"
VOICES: Final = ("slt", "rms", "awb", "kal16")
FASTEST, SLOWEST = 0.85, 1.15
"""Of the duration that a voice would take."""
RATE_HZ: Final = 16_000
BANDS: Final = 80
SHORTEST, LONGEST = 3, 9
"""Words of a sentence."""
PROMPT: Final = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
SPECIAL: Final = ("<|padding|>", END, *PROMPT)
FREQUENT: Final = 256 + 2000
"""Of Whisper's pieces: bytes, and what was merged first."""
NEEDS: Final = (
    f"export EDGEKD_DATA=FOLDER, with {_text.ARCHIVE} in it; apt-get install {PROGRAM}; pip install 'edgekd[speech]'; "
    f"{whisper_base.NEEDS}"
)
SPLITS: Final = ("train", "test")

_SPARE: Final = 1.6
"""Sentences that are said for one that is kept: some take too long."""
_OF_A_PROCESS: Final = 200
_QUESTIONS: Final = ("what", "how", "when", "where", "who", "why", "which", "can", "could", "is", "are", "do", "does")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many sentences of which length."""

    archive: str = ""
    """Path of the .tar.xz; "" looks in the folder that EDGEKD_DATA names."""
    clips: Annotated[int, Meta(ge=4, le=5000)] = 3000
    """To learn from."""
    test_clips: Annotated[int, Meta(ge=4, le=1000)] = 200
    longest_s: Annotated[float, Meta(ge=1.0, le=28.0)] = 3.5
    """Of a sound."""
    window_s: Annotated[int, Meta(ge=2, le=30)] = 5
    """What a net hears: the sound, and silence."""
    length: Annotated[int, Meta(ge=8, le=448)] = 24
    """Tokens, the prompt and the end among them; longer texts are left out."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    """Of which sentences are said, and how."""


class _SpokenRequests:
    Options = Options
    licence = (
        "texts: CC BY 3.0 (S. Larson and others); voices: flite's, free with its notice (Carnegie Mellon University)"
    )
    needs = NEEDS

    def here(self) -> bool:
        try:
            tokenizer()
        except PluginUnavailable:
            return False
        return _text.path_of("").is_file() and shutil.which(PROGRAM) is not None

    def load(self, options: Any) -> Arrays:
        texts, pieces = _texts(options)
        folder = cache() / "spoken_requests" / digest([VERSION, texts, options])
        if shutil.which(PROGRAM) is None and not caches.is_whole(folder):
            raise PluginUnavailable(f"{PROGRAM}, which says the sentences, is not installed", hint=self.needs)
        caches.make(
            folder, "the sounds of the data set spoken_requests", partial(_say_all, options, texts), caches.is_whole
        )
        said = {split: [texts[split][row] for row in np.load(folder / f"{split}-rows.npy")] for split in SPLITS}
        tokens = {split: _tokens(said[split], pieces, options.length) for split in SPLITS}
        planes = {split: np.load(folder / f"{split}-planes.npy").astype(np.float32) for split in SPLITS}
        beside = Beside(tokens["train"], tokens["test"], prompt=len(PROMPT))
        return Arrays(
            planes["train"],
            following(tokens["train"], len(PROMPT)),
            planes["test"],
            following(tokens["test"], len(PROMPT)),
            pieces,
            self.licence,
            pieces,
            end=pieces.index(END),
            beside={"tokens": beside},
        )


# --- texts


def _texts(options: Options) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Sentences that may be said, in the order in which they are tried, and the vocabulary."""
    train, test = map(_sayable, clinc150.questions(options.archive))
    train = [text for text in train if text not in set(test)]
    pieces = vocabulary(train)
    random = np.random.default_rng(options.seed)
    drawn = {}
    for split, found, wanted in (("train", train, options.clips), ("test", test, options.test_clips)):
        short = [text for text, one in zip(found, _cut(found, pieces), strict=True) if len(one) < options.length]
        order = random.permutation(len(short))[: round(_SPARE * wanted)]
        drawn[split] = [short[index] for index in order]
    return drawn, pieces


def _sayable(texts: Iterable[str]) -> list[str]:
    """Each once, as somebody would write it down."""
    return [
        _written(text)
        for text in dict.fromkeys(texts)
        if re.fullmatch(r"[a-z][a-z' ]*", text) and SHORTEST <= len(text.split()) <= LONGEST
    ]


def _written(text: str) -> str:
    """
    >>> _written("what can i do")
    ' What can I do?'
    """
    words = [re.sub("^i(?=$|')", "I", word) for word in text.split()]
    end = "?" if words[0] in _QUESTIONS else "."
    return " " + " ".join([words[0].capitalize(), *words[1:]]) + end


def vocabulary(texts: Sequence[str]) -> tuple[str, ...]:
    """Padding, marks, and pieces of Whisper's: the most frequent ones, and what these texts are made of, with and
    without capitals."""
    whole = tokenizer()
    forms = [*texts, *(text.lower() for text in texts), *(text.title() for text in texts)]
    used = {piece for one in whole.encode_batch(forms, add_special_tokens=False) for piece in one.tokens}
    number = whole.get_vocab()
    frequent = {piece for piece, index in number.items() if index < FREQUENT}
    wanted = sorted((used | frequent) - set(SPECIAL), key=number.__getitem__)
    return (*SPECIAL, *wanted)


def _tokens(texts: Sequence[str], pieces: Sequence[str], length: int) -> NDArray[np.int32]:
    """Of shape (texts, length): prompt, text, end, padding."""
    number = {piece: index for index, piece in enumerate(pieces)}
    rows = np.zeros((len(texts), length), np.int32)
    for row, cut in zip(rows, _cut(texts, pieces), strict=True):
        row[: len(cut) + 1] = [number[piece] for piece in (*cut, END)]
    return rows


def _cut(texts: Sequence[str], pieces: Sequence[str]) -> list[list[str]]:
    """Prompt and pieces of each text; a piece that is not in the vocabulary is spelled in bytes."""
    known = set(pieces)
    return [
        [*PROMPT, *(part for piece in one.tokens for part in ([piece] if piece in known else piece))]
        for one in tokenizer().encode_batch(list(texts), add_special_tokens=False)
    ]


# --- sounds


def _say_all(options: Options, texts: dict[str, list[str]], site: Site) -> dict[str, str]:
    """Fill the folder: of each split the planes, and which texts they are of; their SHA-256 by file name."""
    site.folder.mkdir()
    pieces = [
        (split, range(first, min(first + _OF_A_PROCESS, len(texts[split]))))
        for split in SPLITS
        for first in range(0, len(texts[split]), _OF_A_PROCESS)
    ]
    told = iter(range(1, len(pieces) + 1))

    def say(split: str, rows: range) -> None:
        some = texts[split][rows.start : rows.stop]
        call(say_piece, str(site.folder), options, split, rows.start, some, threads=1, log=site.log)
        tell("saying sentences", next(told), len(pieces))

    together([partial(say, *piece) for piece in pieces], at_once=cores())
    for split, wanted in (("train", options.clips), ("test", options.test_clips)):
        parts = [np.load(site.folder / f"{split}-{rows.start}.npz") for one, rows in pieces if one == split]
        kept = np.concatenate([part["rows"] for part in parts])[:wanted]
        if len(kept) < wanted:
            raise ConfigError(
                f"{len(kept)} sentences of the {split} split take no more than {options.longest_s} s",
                hint="ask for fewer clips, or longer ones",
            )
        np.save(site.folder / f"{split}-rows.npy", kept)
        np.save(site.folder / f"{split}-planes.npy", np.concatenate([part["planes"] for part in parts])[:wanted])
    for part in site.folder.glob("*.npz"):
        part.unlink()
    return {path.name: file_digest(path) for path in sorted(site.folder.iterdir())}


def say_piece(folder: str, options: Options, split: str, first: int, texts: list[str]) -> int:
    """Write what is heard of some texts and is short enough, as float16; how many these are.

    A sentence's chance depends on seed, split and its number alone, so sounds are the same in pieces of any size.
    """
    place = Path(folder)
    scratch = place / f"{split}-{first}.wav"
    rows, sounds = [], []
    for index, text in enumerate(texts, start=first):
        sound = _say(text.strip(), np.random.default_rng([options.seed, SPLITS.index(split), index]), scratch)
        if len(sound) <= options.longest_s * RATE_HZ:
            rows.append(index)
            sounds.append(sound)
    scratch.unlink(missing_ok=True)
    planes = [one.astype(np.float16) for one in log_mel(sounds, options.window_s)]
    shape = (len(planes), BANDS, 100 * options.window_s)
    np.savez(place / f"{split}-{first}.npz", rows=np.array(rows, np.int64), planes=np.reshape(planes, shape))
    return len(rows)


def _say(text: str, chance: np.random.Generator, scratch: Path) -> NDArray[np.float32]:
    """A sound at 16 kHz of one of the voices."""
    import subprocess

    voice = VOICES[chance.integers(len(VOICES))]
    stretch = chance.uniform(FASTEST, SLOWEST)
    command = [PROGRAM, "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", "-t", text, "-o", str(scratch)]
    try:
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        with wave.open(str(scratch), "rb") as opened:
            assert opened.getframerate() == RATE_HZ and opened.getnchannels() == 1
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
    except (subprocess.SubprocessError, OSError, wave.Error) as error:
        raise PluginUnavailable(f"{PROGRAM} does not say {text!r}: {error}", hint=NEEDS) from error
    return samples.astype(np.float32) / np.float32(2**15)


def log_mel(sounds: Sequence[NDArray[Any]], window_s: int) -> Iterator[NDArray[np.float32]]:
    """What Whisper hears of sounds at 16 kHz, each of at most `window_s` seconds: planes (80, 100 x window_s).

    Radford et al. 2022, arXiv:2212.04356, section 2.2.
    """
    try:
        from transformers import WhisperFeatureExtractor
    except ModuleNotFoundError as missing:
        raise PluginUnavailable("sounds become planes by the package 'transformers'", hint=NEEDS) from missing
    extractor: Any = WhisperFeatureExtractor(feature_size=BANDS, chunk_length=window_s)  # type: ignore[no-untyped-call]
    for sound in sounds:
        yield extractor(sound, sampling_rate=RATE_HZ, return_tensors="np").input_features[0]


PLUGIN: Final[Dataset] = _SpokenRequests()
