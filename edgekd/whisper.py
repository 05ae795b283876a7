"""A net that writes down what is said (Radford et al. 2022, "Whisper", arXiv:2212.04356), for teachers and students
alike: an encoder of sound, and a decoder that reads it beside the words so far.

Equal parts have equal names, so that layers of one net start another: `front` is the encoder, `rest.layers.K` a layer
of the decoder. Sounds are shorter than Whisper's thirty seconds; of its places in time the first are kept.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.bert import Norm
from edgekd.decoding import Step
from edgekd.errors import Disagreement
from edgekd.fronts import Fronted
from edgekd.nets import Net
from edgekd.specs import Subject, TensorSpec

EPSILON: Final = 1e-5
"""Of the layer norms."""
AHEAD_SCORE: Final = -100.0
"""Added to scores of words that are still to come: their probability is 0 in float32, and the number a finite one."""
BANDS: Final = 80
DEVIATION: Final = 0.02


class Size(NamedTuple):
    """Of a net."""

    width: int
    heads: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int


def transcriber(size: Size, subject: Subject) -> Fronted:
    """A net of log-mel planes (batch, bands, frames) and tokens (batch, length) to scores (batch, words, length) of the
    token behind each.

    Raises:
        Disagreement: the subject is another one.
    """
    if not is_transcription(subject):
        raise Disagreement(
            "this net reads sound of (bands, frames) beside tokens, and answers the next token of each",
            hint="choose another net, or data such as spoken_requests",
        )
    bands, frames = subject.shape
    encoder = Encoder(size, bands, frames // 2)
    decoder = Decoder(size, len(subject.vocabulary), subject.beside[0].shape[0])
    for module in decoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=DEVIATION)
    return Fronted(encoder, decoder)


def executed_by_steps(size: Size, net: Fronted, subject: Subject) -> Net:
    """The net as devices have it: what listens to the sound once, and a step that writes."""
    assert isinstance(net.rest, Decoder)
    step = WritingStep(size, net.rest, subject.shape[1] // 2)
    return Net(net, classes=subject.classes, step=step, context=Listening(net))


def is_transcription(subject: Subject) -> bool:
    """Whether a subject has sound, tokens that the net writes, and an answer of every word for each of them."""
    if subject.written is None or len(subject.shape) != 2 or len(subject.beside) != 1 or len(subject.outputs) != 1:
        return False
    return subject.outputs[0].shape == (len(subject.vocabulary), *subject.beside[0].shape)


class Encoder(nn.Module):
    """Log-mel planes (batch, bands, frames) to hidden states (batch, frames / 2, width)."""

    def __init__(self, size: Size, bands: int, places: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(bands, size.width, 3, padding=1)
        self.conv2 = nn.Conv1d(size.width, size.width, 3, stride=2, padding=1)
        self.positions = nn.Embedding(places, size.width)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.norm = Norm(size.width, eps=EPSILON)

    def forward(self, planes: Tensor) -> Tensor:
        states = F.gelu(self.conv2(F.gelu(self.conv1(planes)))).transpose(1, 2) + self.positions.weight
        for layer in self.layers:
            states = layer(states)
        normal: Tensor = self.norm(states)
        return normal


class Decoder(nn.Module):
    """Hidden states of sound (batch, places, width) and tokens (batch, length) to scores (batch, words, length)."""

    def __init__(self, size: Size, words: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size.width)
        self.positions = nn.Embedding(length, size.width)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.decoder_layers))
        self.norm = Norm(size.width, eps=EPSILON)
        ahead = torch.ones(length, length).triu(1) * AHEAD_SCORE
        self.register_buffer("ahead", ahead, persistent=False)

    def forward(self, sound: Tensor, tokens: Tensor) -> Tensor:
        return self.recall(tokens, *self.remember(sound))

    def remember(self, sound: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the sound for each layer, (batch, heads, places, width / heads)."""
        attentions = [one for layer in self.layers if isinstance(one := layer.listening, Attention)]
        return tuple(part for one in attentions for part in one.memory(sound))

    def recall(self, tokens: Tensor, *memory: Tensor) -> Tensor:
        """The scores, with the sound as `remember` has it."""
        states = self.words(tokens) + self.positions.weight
        for index, layer in enumerate(self.layers):
            states = layer(states, self.ahead, memory[2 * index], memory[2 * index + 1])
        return self.said(states).transpose(1, 2)

    def said(self, states: Tensor) -> Tensor:
        """Scores (..., words) of hidden states (..., width)."""
        return F.linear(self.norm(states), self.words.weight)


class Listening(nn.Module):
    """Log-mel planes to what a step is given of them: what the decoder remembers."""

    def __init__(self, net: Fronted) -> None:
        super().__init__()
        self.front, self.rest = net.front, net.rest

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(self.rest, Decoder)
        return self.rest.remember(self.front(planes))


class WritingStep(Step):
    """One step of the decoder; the context are keys and values of the sound, the state those of the words so far."""

    def __init__(self, size: Size, decoder: Decoder, places: int) -> None:
        self.length = decoder.positions.num_embeddings
        head = size.width // size.heads

        def kept(what: str, length: int) -> list[TensorSpec]:
            names = [f"{what}{kind}_{layer}" for layer in range(size.decoder_layers) for kind in ("keys", "values")]
            return [TensorSpec(name=name, shape=(1, size.heads, length, head)) for name in names]

        super().__init__(decoder.words.num_embeddings, kept("", self.length), kept("sound_", places))
        self.decoder = decoder

    def forward(self, token: Tensor, position: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """As of Step."""
        decoder = self.decoder
        memory, state = given[: len(self.context)], given[len(self.context) :]
        states = decoder.words(token) + F.embedding(position, decoder.positions.weight)
        places = torch.arange(self.length, device=token.device)
        ahead = (places > position).to(states.dtype)[None, None, None, :] * AHEAD_SCORE
        here = (places == position).to(states.dtype)[None, None, :, None]
        later: list[Tensor] = []
        for index, layer in enumerate(decoder.layers):
            assert isinstance(layer, DecoderLayer)
            two = slice(2 * index, 2 * index + 2)
            states, *words = layer.step(states, ahead, here, state[two], memory[two])
            later += words
        return (decoder.said(states)[:, 0], *later)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net, each behind a norm and beside a shortcut."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = Norm(size.width, eps=EPSILON)
        self.attention = Attention(size)
        self.norm = Norm(size.width, eps=EPSILON)
        self.up = nn.Linear(size.width, size.feed_forward)
        self.down = nn.Linear(size.feed_forward, size.width)

    def forward(self, states: Tensor) -> Tensor:
        given = self.attention_norm(states)
        states = states + self.attention(given, *self.attention.memory(given))
        made: Tensor = states + self.down(F.gelu(self.up(self.norm(states))))
        return made


class DecoderLayer(nn.Module):
    """As the encoder's, with an attention to the words so far and another to the sound."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = Norm(size.width, eps=EPSILON)
        self.attention = Attention(size)
        self.listening_norm = Norm(size.width, eps=EPSILON)
        self.listening = Attention(size)
        self.norm = Norm(size.width, eps=EPSILON)
        self.up = nn.Linear(size.width, size.feed_forward)
        self.down = nn.Linear(size.feed_forward, size.width)

    def forward(self, states: Tensor, ahead: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        given = self.attention_norm(states)
        states = states + self.attention(given, *self.attention.memory(given), ahead)
        return self._heard(states, keys, values)

    def step(
        self, states: Tensor, ahead: Tensor, here: Tensor, state: Sequence[Tensor], memory: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (batch, 1, width) of the word that is `here`, and keys and values of the words with its own."""
        given = self.attention_norm(states)
        own = self.attention.memory(given)
        keys, values = (kept * (1 - here) + one * here for kept, one in zip(state, own, strict=True))
        states = states + self.attention(given, keys, values, ahead)
        return self._heard(states, *memory), keys, values

    def _heard(self, states: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        states = states + self.listening(self.listening_norm(states), keys, values)
        made: Tensor = states + self.down(F.gelu(self.up(self.norm(states))))
        return made


class Attention(nn.Module):
    """Hidden states to what each place gathers from the keys and values of places."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width, bias=False)
        self.value = nn.Linear(size.width, size.width)
        self.output = nn.Linear(size.width, size.width)

    def memory(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (batch, heads, places, width / heads)."""
        return self._by_head(self.key(states)), self._by_head(self.value(states))

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, ahead: Tensor | None = None) -> Tensor:
        query = self._by_head(self.query(states))
        scores = query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5)
        if ahead is not None:
            scores = scores + ahead
        gathered: Tensor = self.output((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))
        return gathered

    def _by_head(self, states: Tensor) -> Tensor:
        """(batch, length, width) to (batch, heads, length, width / heads)."""
        batch, length, width = states.shape
        return states.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
