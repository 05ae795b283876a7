"""A decoder of tokens (Touvron et al. 2023, "LLaMA", arXiv:2302.13971), for teachers and students alike.

RMS norms in front (Zhang and Sennrich 2019, arXiv:1910.07467), places as turns of queries and keys (Su et al. 2021,
"RoPE", arXiv:2104.09864), fewer keys than queries (Ainslie et al. 2023, "GQA", arXiv:2305.13245), a gated feed-forward
net (Shazeer 2020, "SwiGLU", arXiv:2002.05202), and one table for what is read and what is written.

What losses look at is what modules return: `decoder.embeddings` and `decoder.layers.K` return hidden states of shape
(batch, length, width); `decoder.layers.K.attention` returns, behind what it gathered, its probabilities and its scores,
both (batch, heads, length, length). Equal parts have equal names, so that layers of one net start another.

Padding needs no mask: it stands at the end, where nothing that counts looks.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.decoding import Step
from edgekd.errors import Disagreement
from edgekd.repeats import repeated
from edgekd.specs import Subject, TensorSpec

UNSEEN: Final = -200.0
"""Added to the scores of what comes later. Its probability is 0 then: half as much would leave denormal numbers, which
processors multiply slowly, and more would leave integers less for the other scores."""
EPSILON: Final = 1e-5
"""Of the norms."""
EMBEDDING_DEVIATION: Final = 0.02
"""Of the table at first, as it is usual; a norm follows when it is read."""


class Size(NamedTuple):
    """Of a decoder."""

    width: int
    heads: int
    groups: int
    """Of keys and values, each for heads / groups queries."""
    feed_forward: int
    layers: int
    base: float = 10_000.0
    """Of the turns: the slowest takes about as many tokens for a radian."""


class WritingNet(nn.Module):
    """Tokens (batch, length), padded with 0 at the end, to the logits of what comes next, (batch, pieces, length).

    Raises:
        Disagreement: the subject is no text to go on with.
    """

    def __init__(self, size: Size, subject: Subject) -> None:
        super().__init__()
        length = length_of(subject)
        self.decoder = Decoder(size, len(subject.vocabulary), length)
        initialise(self.modules())

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder.said(self.decoder(tokens)).transpose(1, 2)


def length_of(subject: Subject) -> int:
    """Tokens of a text.

    Raises:
        Disagreement: the data are no texts, or something else is wanted than what comes next.
    """
    if subject.kind != "tokens":
        raise Disagreement(f"this net reads tokens, the data are {subject.kind}", hint="choose another net")
    wanted = [output.shape for output in subject.outputs]
    if wanted != [(len(subject.vocabulary), *subject.shape)]:
        raise Disagreement(
            f"this net answers which of {len(subject.vocabulary)} pieces comes next, the data want "
            f"{', '.join(output.task for output in subject.outputs)}",
            hint='choose another net, or the task "next_token"',
        )
    return subject.shape[0]


class Decoder(nn.Module):
    """Tokens (batch, length) to hidden states (batch, length, width)."""

    def __init__(self, size: Size, pieces: int, length: int) -> None:
        super().__init__()
        self.size, self.length = size, length
        self.embeddings = nn.Embedding(pieces, size.width)
        self.layers = nn.ModuleList(
            _layer(size.width, size.heads, size.groups, size.feed_forward) for _ in range(size.layers)
        )
        self.norm = _norm(size.width)
        self.cosines: Tensor
        self.sines: Tensor
        self.before: Tensor
        """Keys and values of what stands before every text: (layers, 2, 1, groups, tokens, head)."""
        self.place(torch.empty(0, size.width))

    def place(self, before: Tensor) -> None:
        """Let every text stand behind some tokens, given by what the table has for them, (tokens, width)."""
        count, device = len(before), before.device
        tables = turns(self.size, count + self.length)
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            self.register_buffer(name, table[count:].to(device), persistent=False)
        if not count:
            shape = (self.size.layers, 2, 1, self.size.groups, 0, self.size.width // self.size.heads)
            self.register_buffer("before", before.new_empty(shape), persistent=False)
            return
        turn = (tables[0][:count].to(device), tables[1][:count].to(device))
        states, later, kept = before[None], _later(count, before), []
        with torch.no_grad():
            for layer in cast("Iterable[Layer]", self.layers):
                _, *seen = layer.attention.asked(layer.attention_norm(states), turn)
                kept.append(torch.stack(seen))
                states = layer(states, turn, later, None)
        self.register_buffer("before", torch.stack(kept), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.embeddings(tokens)
        length = tokens.shape[1]
        later = self.widened(_later(length, states))
        for index, layer in enumerate(self.layers):
            states = layer(states, (self.cosines[:length], self.sines[:length]), later, self.behind(index))
        normed: Tensor = self.norm(states)
        return normed

    def behind(self, index: int) -> "Before":
        """What a layer sees before every text."""
        return self.before[index] if self.before.shape[4] else None

    def widened(self, later: Tensor) -> Tensor:
        """What is added to scores, with as much as stands before every text, where something does."""
        return F.pad(later, (self.before.shape[4], 0)) if self.before.shape[4] else later

    def said(self, states: Tensor) -> Tensor:
        """Logits (..., pieces) of hidden states (..., width)."""
        return F.linear(states, self.embeddings.weight)


class WritingStep(Step):
    """One step of a WritingNet; the state is the keys and values of each layer, (batch, groups, length, head)."""

    def __init__(self, net: WritingNet) -> None:
        decoder = net.decoder
        size = decoder.size
        shape = (1, size.groups, decoder.length, size.width // size.heads)
        names = [f"{what}_{layer}" for layer in range(size.layers) for what in ("keys", "values")]
        super().__init__(decoder.embeddings.num_embeddings, [TensorSpec(name=name, shape=shape) for name in names])
        self.decoder = decoder

    def forward(self, token: Tensor, position: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """As of Step."""
        decoder = self.decoder
        states: Tensor = decoder.embeddings(token)
        places = torch.arange(decoder.length, device=token.device)
        later = (places > position).to(states.dtype)[None, None, None, :] * UNSEEN
        later = decoder.widened(later)
        here = (places == position).to(states.dtype)[None, None, :, None]
        turn = F.embedding(position, decoder.cosines), F.embedding(position, decoder.sines)
        kept: list[Tensor] = []
        for index, layer in enumerate(cast("Iterable[Layer]", decoder.layers)):
            cache = (given[2 * index], given[2 * index + 1])
            states, *seen = layer.step(states, turn, later, here, cache, decoder.behind(index))
            kept += seen
        return (decoder.said(decoder.norm(states))[:, 0], *kept)


def _later(length: int, like: Tensor) -> Tensor:
    """What is added to scores (..., length, length): little where a key comes after its query."""
    places = torch.arange(length, device=like.device)
    return (places[None, :] > places[:, None]).to(like.dtype) * UNSEEN


Turn = tuple[Tensor, Tensor]
"""Cosines and sines of the places, (length, head)."""
Before = Tensor | None
"""Keys and values of a layer of what stands before every text, (2, 1, groups, tokens, head), where something does."""


def turns(size: Size, length: int) -> Turn:
    """How far queries and keys are turned at each place."""
    head = size.width // size.heads
    speeds = size.base ** (-torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * torch.cat([speeds, speeds])
    return angles.cos(), angles.sin()


class Norm(nn.Module):
    """By the root of the mean square, in products: see `Norm` of edgekd/bert.py."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        return states * torch.rsqrt((states * states).mean(-1, keepdim=True) + EPSILON) * self.weight


class Layer(nn.Module):
    """Attention and a feed-forward net, each normalised before and beside a shortcut."""

    def __init__(self, width: int, heads: int, groups: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_norm = Norm(width)
        self.attention = Attention(width, heads, groups)
        self.norm = Norm(width)
        self.gate = nn.Linear(width, feed_forward, bias=False)
        self.up = nn.Linear(width, feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, width, bias=False)

    def forward(self, states: Tensor, turn: Turn, later: Tensor, before: Before) -> Tensor:
        attended, _, _ = self.attention(self.attention_norm(states), turn, later, before)
        return self._fed(states + attended)

    def step(
        self,
        states: Tensor,
        turn: Turn,
        later: Tensor,
        here: Tensor,
        cache: tuple[Tensor, Tensor],
        before: Before,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (batch, 1, width) of the token that is `here`, and the keys and values with its own."""
        query, *own = self.attention.asked(self.attention_norm(states), turn)
        keys, values = (kept * (1 - here) + one * here for kept, one in zip(cache, own, strict=True))
        attended, _, _ = self.attention.gathered(query, *_behind(before, keys, values), later)
        return self._fed(states + attended), keys, values

    def _fed(self, states: Tensor) -> Tensor:
        normed = self.norm(states)
        fed: Tensor = self.down(F.silu(self.gate(normed)) * self.up(normed))
        return states + fed


_layer, _norm = repeated(Layer), repeated(Norm)


class Attention(nn.Module):
    """Hidden states to what each token gathers from those before it, the probabilities of that, and their scores."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.head = heads, groups, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.head, bias=False)
        self.value = nn.Linear(width, groups * self.head, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, states: Tensor, turn: Turn, later: Tensor, before: Before) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.asked(states, turn)
        return self.gathered(query, *_behind(before, key, value), later)

    def asked(self, states: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """Query (batch, heads, length, head), key and value (batch, groups, length, head)."""
        query = self._by_head(self.query(states), self.heads)
        key, value = (self._by_head(part(states), self.groups) for part in (self.key, self.value))
        return _turned(query, turn), _turned(key, turn), value

    def gathered(self, query: Tensor, key: Tensor, value: Tensor, later: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns; `later` is added to the scores (batch, heads, length, length)."""
        batch, heads, length, head = query.shape
        rows, seen = heads // self.groups * length, key.shape[2]
        grouped = query.reshape(batch, self.groups, rows, head)
        scores = (grouped @ key.transpose(2, 3)).reshape(batch, heads, length, seen) * head**-0.5
        probabilities = (scores + later).softmax(-1)
        found = probabilities.reshape(batch, self.groups, rows, seen) @ value
        by_place = found.reshape(batch, heads, length, head).transpose(1, 2).flatten(2)
        return self.output(by_place), probabilities, scores

    def _by_head(self, states: Tensor, heads: int) -> Tensor:
        """(batch, length, heads x head) to (batch, heads, length, head)."""
        batch, length, _ = states.shape
        return states.view(batch, length, heads, self.head).transpose(1, 2)


def _behind(before: Before, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values behind those of what stands before every text, where something does."""
    if before is None:
        return key, value
    keys, values = (other.expand(len(key), -1, -1, -1) for other in before)
    return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


def _turned(states: Tensor, turn: Turn) -> Tensor:
    cosines, sines = turn
    first, second = states.chunk(2, dim=-1)
    return states * cosines + torch.cat([-second, first], dim=-1) * sines


def initialise(modules: Iterable[nn.Module]) -> None:
    """Draw weights so that variances neither grow nor shrink from layer to layer, whatever the width."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)
