"""Every file in edgekd/teachers is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import teachers
from edgekd.errors import Disagreement, PluginUnavailable
from edgekd.plugins import find, names
from edgekd.specs import Output, Subject
from tests.subjects import example, speech, story, subject, text

FACE = Output(name="logits", task="embedding", shape=(128,), metric="verification")
SUBJECTS = {
    "an image": subject((3, 48, 48)),
    "a face": Subject(shape=(3, 48, 48), kind="images", outputs=(FACE,)),
    "numbers": subject((1, 32, 49), kind="numbers"),
    "text": text(),
    "a text to go on with": story(),
    "speech": speech(),
}

NAMES = [name for name in names(teachers) if name not in {"model_file", "transformers"}]
"""What a file holds depends on the file: see tests/test_teachers.py and tests/test_transformers.py."""


@pytest.mark.parametrize("name", NAMES)
def test_answers_a_value_a_class_or_says_that_it_does_not(name: str) -> None:
    source, refused = find(teachers, name), 0
    for wanted in SUBJECTS.values():
        try:
            net = source.build(source.Options(), wanted)
        except Disagreement:
            refused += 1
            continue
        except (PluginUnavailable, ModuleNotFoundError) as missing:
            pytest.skip(f"the weights of {name} are not installed: {missing}")
        assert (net.preprocessing is None) == (wanted.kind != "images")
        with torch.no_grad():
            logits = net.module.eval()(*example(net, wanted, batch=2))
        assert logits.shape == (2, *wanted.outputs[0].shape) and torch.isfinite(logits).all()
    assert refused < len(SUBJECTS), f"{name} takes none of {', '.join(SUBJECTS)}"
