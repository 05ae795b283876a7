"""Nets of transformers as teachers: tiny ones, made and saved here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import teachers
from edgekd.errors import ConfigError, Disagreement, PluginUnavailable
from edgekd.nets import Net, examine
from edgekd.plugins import find
from edgekd.specs import Subject
from tests.subjects import example, story, subject, text

transformers = pytest.importorskip("transformers", reason="pip install 'edgekd[transformers]'")
PIECES = list(dict.fromkeys([*story().vocabulary, *text().vocabulary, "more"]))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def saved(folder: Path, kind: str) -> Path:
    """A folder as `save_pretrained` leaves it."""
    torch.manual_seed(0)
    if kind == "image":
        config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=5)
        transformers.ViTForImageClassification(config).save_pretrained(folder)
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3)
        processor.save_pretrained(folder)
        return folder
    from tokenizers import Tokenizer, models

    made = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    if kind == "writing":
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=len(PIECES))
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    else:
        config = transformers.BertConfig(**SIZES, vocab_size=len(PIECES), num_labels=3)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def teacher(folder: Path, wanted: Subject) -> Net:
    source = find(teachers, "transformers")
    net: Net = source.build(source.Options(model=str(folder)), wanted)
    net.module.eval()
    return net


CASES: dict[str, Subject] = {"image": subject((3, 48, 48)), "writing": story(), "reading": text()}


@pytest.mark.parametrize("kind", CASES)
def test_a_net_that_was_saved_answers_about_the_data(kind: str, tmp_path: Path) -> None:
    wanted = CASES[kind]
    net = teacher(saved(tmp_path / "net", kind), wanted)
    given = example(net, wanted, batch=2)
    with torch.no_grad():
        answer = net.module(*given)
    assert answer.shape == (2, *wanted.outputs[0].shape) and torch.isfinite(answer).all()
    assert examine(net, wanted).macs > 10_000
    if net.preprocessing:
        assert net.preprocessing.size == (32, 32) and net.preprocessing.mean == (127.5,) * 3


def test_pieces_are_those_of_the_data_and_padding_is_not_read(tmp_path: Path) -> None:
    net = teacher(saved(tmp_path / "net", "writing"), story())
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "net").eval()
    (tokens,) = example(net, story(), batch=2)
    own = [PIECES.index(piece) for piece in story().vocabulary]
    with torch.no_grad():
        expected = plain(torch.tensor(own)[tokens]).logits[:, :, own].transpose(1, 2)
        torch.testing.assert_close(net.module(tokens), expected, rtol=1e-4, atol=1e-5)

    reader = teacher(saved(tmp_path / "other", "reading"), text())
    longer = torch.tensor([[2, 4, 5, 3, 0, 0, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(reader.module(longer), reader.module(longer[:, :4]), rtol=1e-4, atol=1e-5)


def test_what_is_not_there_or_does_not_fit_is_said_in_a_line(tmp_path: Path) -> None:
    source = find(teachers, "transformers")
    with pytest.raises(ConfigError, match="has no net"):
        source.build(source.Options(), text())
    with pytest.raises(PluginUnavailable, match="nowhere is no net that transformers can load here"):
        source.build(source.Options(model=str(tmp_path / "nowhere")), text())
    with pytest.raises(Disagreement, match="the data are numbers"):
        source.build(source.Options(model="x"), subject((12,), kind="numbers"))
    foreign: Any = Subject(shape=(4,), kind="tokens", outputs=text().outputs, vocabulary=("[PAD]", "xyzzy"))
    with pytest.raises(Disagreement, match="does not know 'xyzzy' and 0 others"):
        teacher(saved(tmp_path / "net", "reading"), foreign)
