"""Nets that write one token after the other, as devices execute them: step by step, with a state between the steps.

A `Step` is what is exported of such a net. All of its shapes are fixed, so that every format can express it:

    inputs    token (1, 1) int32, position (1,) int32, then the context, then the state
    outputs   logits (1, pieces), then the state that the next step is given, in the same order

The context is what stays the same while a text is written, as what a decoder of speech attends to; the state begins as
zeros, and a step hands it to the next one: keys and values of attention, mostly. A batch of texts is at one position.

To have a net executed like this, write a subclass of Step that shares its modules, and say `Net(module, step=...)`:
`edgekd.nets.Net`. What is exported, calibrated, timed and weighed then is the step, and an artifact agrees when texts
that it is led through token by token get the logits that the whole net gives them at once. `unrolled` does that in
torch, the requests `unroll` and `write` of edgekd/engines/_guest.py on an engine. A net with a context, such as
Whisper's decoder, gives the arrays of each text to `unrolled`, `walk` or `written`; what makes them is `Net(module,
step=..., context=...)`, a model of its own on the device, which is executed once a text.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.specs import TensorSpec

TOKEN: Final = TensorSpec(name="token", shape=(1, 1), dtype="int32")
POSITION: Final = TensorSpec(name="position", shape=(1,), dtype="int32")
NEXT: Final = "next_"
"""In front of a state's name among the outputs: formats want every name once."""


class Step(nn.Module):
    """One step of a net that writes; abstract: a subclass says what it is given and has `forward`."""

    def __init__(self, pieces: int, state: Sequence[TensorSpec], context: Sequence[TensorSpec] = ()) -> None:
        super().__init__()
        self.pieces = pieces
        """Of the vocabulary that it chooses from."""
        self.state = tuple(state)
        """Of one text, with the batch of 1 in front; float32."""
        self.context = tuple(context)

    def forward(self, token: Tensor, position: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Logits (batch, pieces) of what comes after the token, and the new state.

        `token` is (batch, 1), `position` (1,), the tensors given are context and state.
        """
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the step as it is exported."""
        return (TOKEN, POSITION, *self.context, *self.state)

    def outputs(self, logits: str) -> tuple[TensorSpec, ...]:
        """Of the step as it is exported; `logits` is the name of the first."""
        later = (TensorSpec(name=NEXT + one.name, shape=one.shape) for one in self.state)
        return (TensorSpec(name=logits, shape=(1, self.pieces)), *later)

    def start(self, texts: int, device: torch.device) -> tuple[Tensor, ...]:
        """The state before the first token."""
        return tuple(torch.zeros(texts, *one.shape[1:], device=device) for one in self.state)


def walk(step: Step, tokens: Tensor, context: Sequence[Tensor] = ()) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Lead a step through texts (batch, length): at each position what it is given, and its logits (batch, pieces)."""
    state = step.start(len(tokens), tokens.device)
    for place in range(tokens.shape[1]):
        given = (tokens[:, place : place + 1], torch.tensor([place], device=tokens.device), *context, *state)
        logits, *later = step(*given)
        state = tuple(later)
        yield given, logits


def unrolled(step: Step, tokens: Tensor, context: Sequence[Tensor] = ()) -> Tensor:
    """Logits (batch, pieces, length) of texts, as the whole net gives them at once."""
    return torch.stack([logits for _, logits in walk(step, tokens, context)], dim=2)


def examples(
    step: Step, tokens: Tensor, positions: Sequence[int], context: Sequence[Tensor] = ()
) -> tuple[NDArray[Any], ...]:
    """What a step of each text is given at its position: for each input an array of (texts, *shape)."""
    found: list[list[NDArray[Any]]] = [[] for _ in tokens]
    with torch.no_grad():
        for place, (given, _) in enumerate(walk(step, tokens[:, : max(positions) + 1], context)):
            for text, wanted in enumerate(positions):
                if wanted == place:
                    found[text] = [_alone(one, text, spec) for one, spec in zip(given, step.inputs, strict=True)]
    return tuple(np.stack(one) for one in zip(*found, strict=True))


def spread(tokens: Tensor) -> list[int]:
    """For each text (texts, length) a place in it, such that early and late ones are there."""
    lengths = (tokens != 0).sum(1).tolist()
    return [index % max(1, length) for index, length in enumerate(lengths)]


def given(labels: NDArray[Any]) -> NDArray[np.int64]:
    """How many tokens of each text stand there before the first that is to be learned, by the labels of next_token."""
    return np.asarray((labels >= 0).argmax(axis=1) + 1, np.int64)


def _alone(given: Tensor, text: int, spec: TensorSpec) -> NDArray[Any]:
    """One text's part of an input; the position is everybody's."""
    part = given if spec == POSITION else given[text : text + 1]
    return part.numpy().astype(spec.dtype)


def written(
    step: Step,
    texts: Tensor,
    known: Tensor,
    end: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    context: Sequence[Tensor] = (),
) -> Tensor:
    """Texts (batch, length) whose first `known` (batch,) tokens are kept, and which the step goes on with.

    What comes next is drawn from the softmax of the logits over `temperature`; without a generator it is the most
    likely piece. Behind the first written `end` everything is 0.
    """
    made, device = texts.clone(), texts.device
    state, done = step.start(len(texts), device), torch.zeros(len(texts), dtype=torch.bool, device=device)
    with torch.no_grad():
        for place in range(texts.shape[1] - 1):
            at = torch.tensor([place], device=device)
            logits, *later = step(made[:, place : place + 1], at, *context, *state)
            state = tuple(later)
            free = known <= place + 1
            chosen = _drawn(logits, generator, temperature).masked_fill(done, 0)
            made[:, place + 1] = torch.where(free, chosen, made[:, place + 1])
            done |= free & (made[:, place + 1] == end)
            if bool(done.all()):
                made[:, place + 2 :] = 0
                break
    return made


def _drawn(logits: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
    if generator is None:
        return logits.argmax(1)
    chances = (logits.float() / temperature).softmax(1).cpu()  # a generator belongs to one device
    return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)
