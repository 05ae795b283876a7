"""An encoder of tokens (Devlin et al. 2019, "BERT", arXiv:1810.04805), for teachers and students alike.

What losses look at is what modules return: `embeddings` and `layers.K` return hidden states of shape (batch, length,
width); `layers.K.attention` returns, behind what it gathered, its probabilities and its scores, both of shape (batch,
heads, length, length): "layers.0.attention:1" and "layers.0.attention:2". So nothing of it is fused. Equal parts have
equal names, so that layers of one net start another.

Every operator has a fast integer kernel in TFLite. Padding is kept out by adding a number to the scores that is small
enough to leave integers some resolution for the others; the mean over words is an attention too, for as a quotient it
would have to divide integers, which no kernel does; and norms are made of products: see `Norm`.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.errors import Disagreement
from edgekd.repeats import repeated
from edgekd.specs import Output, Subject

PADDING_SCORE: Final = -30.0
"""Added to the scores of padding: its probability is 1e-13 of a word's of equal score, less than float32 can tell."""
EPSILON: Final = 1e-12
"""Of the layer norms, as in BERT."""
EMBEDDING_DEVIATION: Final = 0.02
"""Of what stands for words and places at first, as in BERT; a norm follows, so that it sets how fast they learn."""


class Size(NamedTuple):
    """Of an encoder."""

    width: int
    heads: int
    feed_forward: int
    layers: int
    embedding: int
    """Width of the table of words; where it is not the encoder's, a linear map follows (Lan et al. 2020, "ALBERT",
    arXiv:1909.11942)."""


class TokenNet(nn.Module):
    """Tokens (batch, length), padded with 0, to an answer for each output: rows (batch, classes) of the whole text,
    planes (batch, classes, length) of each token.

    Raises:
        Disagreement: the subject is no text, or wants another kind of output.
    """

    def __init__(self, size: Size, subject: Subject, dropout: float) -> None:
        super().__init__()
        length = length_of(subject)
        self.encoder = Encoder(size, len(subject.vocabulary), length, dropout)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(_head(output, size.width, length) for output in subject.outputs)
        initialise(self.modules())

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, ...]:
        padding = padding_scores(tokens, self.encoder.embeddings.norm.weight)
        states = self.dropout(self.encoder(tokens, padding))
        answers = tuple(head(states, padding) for head in self.heads)
        return answers if len(answers) > 1 else answers[0]


def length_of(subject: Subject) -> int:
    """Tokens of an example.

    Raises:
        Disagreement: the examples are not of tokens.
    """
    if subject.kind != "tokens":
        raise Disagreement(f"this net reads tokens, the data are {subject.kind}", hint="choose another net")
    return subject.shape[0]


def padding_scores(tokens: Tensor, like: Tensor) -> Tensor:
    """What is added to scores of shape (batch, heads, length, length): 0 for words, -30 for padding."""
    return ((tokens == 0).to(like.dtype) * PADDING_SCORE)[:, None, None, :]


class Encoder(nn.Module):
    """Tokens (batch, length) to hidden states (batch, length, width)."""

    def __init__(self, size: Size, words: int, length: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = _embeddings(words, length, size.width, size.embedding, dropout)
        self.layers = nn.ModuleList(
            _layer(size.width, size.heads, size.feed_forward, dropout) for _ in range(size.layers)
        )

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        states: Tensor = self.embeddings(tokens)
        for layer in self.layers:
            states = layer(states, padding)
        return states


class Embeddings(nn.Module):
    """Tokens (batch, length) to the sum of what stands for the word and for its place, normalised."""

    def __init__(self, words: int, length: int, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(words, embedding)
        self.widen = nn.Linear(embedding, width) if embedding != width else nn.Identity()
        self.positions = nn.Embedding(length, width)
        self.norm = Norm(width, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.dropout(self.norm(self.widen(self.words(tokens)) + self.positions.weight))
        return states


class Norm(nn.LayerNorm):
    """A layer norm, in products when it is not trained.

    As one operator it becomes a SQUARED_DIFFERENCE in TFLite, whose int8 kernel is plain C: two layers of 192 for 21
    tokens take 0.35 ms that way, and 0.22 ms this way (LiteRT 2.3.0, x86-64).
    """

    def forward(self, states: Tensor) -> Tensor:
        if self.training:
            return super().forward(states)
        centred = states - states.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class Layer(nn.Module):
    """Attention and a feed-forward net, each beside a shortcut and normalised after it."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = Norm(width, eps=EPSILON)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.norm = Norm(width, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        attended, _, _ = self.attention(states, padding)
        states = self.attention_norm(states + self.dropout(attended))
        made: Tensor = self.norm(states + self.dropout(self.down(F.gelu(self.up(states)))))
        return made


class Attention(nn.Module):
    """Hidden states to what each token gathers from all others, the probabilities of that, and their scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, states: Tensor, padding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (self._by_head(part(states)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5)
        probabilities = (scores + padding).softmax(-1)
        gathered = (probabilities @ value).transpose(1, 2).flatten(2)
        return self.output(gathered), probabilities, scores

    def _by_head(self, states: Tensor) -> Tensor:
        """(batch, length, width) to (batch, heads, length, width / heads)."""
        batch, length, width = states.shape
        return states.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class TextHead(nn.Module):
    """A row of numbers for the whole text, of the mean of its words."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.answer = nn.Linear(width, numbers)

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        mean = (padding[:, 0].softmax(-1) @ states)[:, 0]
        answer: Tensor = self.answer(mean)
        return answer


class TokenHead(nn.Module):
    """A column of numbers for each token."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.answer = nn.Linear(width, numbers)

    def forward(self, states: Tensor, padding: Tensor) -> Tensor:
        answer: Tensor = self.answer(states).transpose(1, 2)
        return answer


_embeddings, _layer = repeated(Embeddings), repeated(Layer)
_text_head, _token_head = repeated(TextHead), repeated(TokenHead)


def _head(output: Output, width: int, length: int) -> nn.Module:
    if len(output.shape) == 1:
        return _text_head(width, output.shape[0])
    if len(output.shape) == 2 and output.shape[1] == length:
        return _token_head(width, output.shape[0])
    raise Disagreement(
        f"the output {output.name!r} is of shape {output.shape}, a text of {length} tokens",
        hint="a net of tokens answers a row for the text, or one for each token",
    )


def initialise(modules: Iterable[nn.Module]) -> None:
    """Draw weights so that variances neither grow nor shrink from layer to layer, whatever the width."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)
