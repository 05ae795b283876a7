"""An archive as the data sets of text want it, made here: small, right, and hostile."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CLINC = "clinc/data/data_full.json"
BANKING_TRAIN, BANKING_TEST = "polyai/banking_data/train.csv", "polyai/banking_data/test.csv"
SNIPS = "sonos/2017-06-custom-intent-engines"


def sentence(*parts: str | tuple[str, str]) -> dict[str, Any]:
    """A sentence of Snips: plain parts, and (phrase, slot)."""
    return {"data": [{"text": one} if isinstance(one, str) else {"text": one[0], "entity": one[1]} for one in parts]}


def contents(intents: tuple[str, ...]) -> dict[str, bytes]:
    """Files of the three data sets, of a few texts each."""
    clinc = {
        "train": [["what is the weather", "weather"], ["is it raining", "weather"], ["wake me at noon", "alarm"]],
        "val": [["never looked at", "alarm"]],
        "test": [["is it raining at noon", "weather"], ["wake the dog", "alarm"]],
        "oos_test": [["who am i", "oos"]],
    }
    rows = 'text,category\n"My card, please",card\nWhere is it?,arrival\n"a\nline",card\n'
    made = {CLINC: json.dumps(clinc).encode(), BANKING_TRAIN: rows.encode(), BANKING_TEST: rows.encode()}
    for intent in intents:
        train = [sentence("play ", ("Café Tacvba", "artist"), " now"), sentence(f"{intent} ", ("two", "count"))]
        test = [sentence("play ", ("two tacos", "artist"), " ", ("two", "count")), sentence("Play Café Tacvba")]
        for name, sentences in ((f"train_{intent}_full", train), (f"validate_{intent}", test)):
            text = json.dumps({intent: sentences}, ensure_ascii=False)
            made[f"{SNIPS}/{intent}/{name}.json"] = text.encode("latin-1" if intent == "PlayMusic" else "utf-8")
    return made


def archive(
    path: Path, files: Mapping[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None, kind: str = "xz"
) -> Path:
    """A tar of these files; `change` may spoil what stands in front of each."""
    with tarfile.open(path, f"w:{kind}") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change:
                change(member)
            opened.addfile(member, io.BytesIO(content))
    return path
