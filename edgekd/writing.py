"""Texts that a net writes itself: greedily, each token the likeliest behind those before it.

A net that reads a whole text answers all its places at once, and what it answers makes the next draft. The draft that
stays as it is, is what one token after another would have come to: each round settles one more place at the least, and
a good draft is settled in one or two (Santilli et al. 2023, "Accelerating Transformer Inference for Translation via
Parallel Decoding", arXiv:2305.10427). That needs no cache, and asks the same of a torch module as of an artifact.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.fronts import Fronted
from edgekd.nets import answers_of, evaluating
from edgekd.progress import tell
from edgekd.specs import Subject
from edgekd.training import predict
from edgekd.views import Viewer

Array = NDArray[Any]
Ask = Callable[[Array, NDArray[np.int64]], tuple[Array, ...]]
"""(drafts, which of the examples they are of) -> for each output the answers."""

PADDING: Final = 0
AT_ONCE: Final = 50
"""Examples whose texts are written together."""


@runtime_checkable
class Remembering(Protocol):
    """A module that tells apart what does not depend on the text, which is its last input."""

    def remember(self, *others: Tensor) -> tuple[Tensor, ...]:
        """What it makes of the other inputs, each of (batch, ...)."""

    def recall(self, tokens: Tensor, *memory: Tensor) -> Any:
        """What it answers."""


def written_by(
    module: nn.Module,
    viewer: Viewer,
    subject: Subject,
    examples: NDArray[np.int64] | None = None,
    what: str = "",
) -> tuple[NDArray[np.float32], ...]:
    """For each output what a net answers when it is on its own: to a text that it wrote, where it writes one.

    The drafts are the texts that the viewer has.
    """
    if subject.written is None:
        return predict(module, viewer, examples=examples)
    parts = [answers for _, answers in writing(module, viewer, subject, examples, what)]
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def writing(
    module: nn.Module,
    viewer: Viewer,
    subject: Subject,
    examples: NDArray[np.int64] | None = None,
    what: str = "",
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[np.float32], ...]]]:
    """As `written_by` of a net that writes, batch after batch: (indices, answers)."""
    assert subject.written is not None
    pool = np.arange(len(viewer)) if examples is None else examples
    with evaluating(module):
        for start in range(0, len(pool), AT_ONCE):
            _tell(what, start, len(pool))
            indices = pool[start : start + AT_ONCE]
            inputs = viewer.inputs(indices)
            drafts = inputs[1 + subject.written].numpy()
            yield indices, settle(_asking(module, inputs, subject.written), drafts, subject)
    _tell(what, len(pool), len(pool))


def _tell(what: str, done: int, total: int) -> None:
    if what:
        tell(what, done, total)


def settle(ask: Ask, drafts: Array, subject: Subject) -> tuple[Array, ...]:
    """For each output what is answered to the texts that are written, of shape (examples, ...).

    `drafts` of shape (examples, length) begin with what is given, and are right or not behind that.
    """
    assert subject.written is not None
    given, output = subject.beside[subject.written], text_output(subject)
    tokens, still = drafts.copy(), np.arange(len(drafts))
    found: tuple[Array, ...] = ()
    for _ in range(1 + drafts.shape[1] - given.prompt):  # more would be for a net that looks ahead in the text
        answers = ask(tokens[still], still)
        found = found or tuple(np.empty((len(drafts), *one.shape[1:]), one.dtype) for one in answers)
        for whole, part in zip(found, answers, strict=True):
            whole[still] = part
        after = follow(tokens[still], answers[output], given.prompt, subject.end)
        changed = (after != tokens[still]).any(axis=1)
        tokens[still] = after
        still = still[changed]
        if not len(still):
            break
    return found


def drafted(tokens: Array, answers: Sequence[Array], subject: Subject) -> Array:
    """The texts that follow from answers to some; `tokens` have what is given in front."""
    assert subject.written is not None
    return follow(tokens, answers[text_output(subject)], subject.beside[subject.written].prompt, subject.end)


def saying(texts: Array, subject: Subject) -> Array:
    """Answers (examples, words, length) of a net that would write these texts."""
    shape = subject.outputs[text_output(subject)].shape
    answers = np.zeros((len(texts), *shape), np.float32)
    examples, places = np.indices((len(texts), texts.shape[1] - 1))
    answers[examples, texts[:, 1:], places] = 1
    return answers


def follow(tokens: Array, answer: Array, prompt: int, end: int) -> Array:
    """The next drafts: each token the likeliest at the place before it, up to the one that ends the text.

    tokens (examples, length); answer (examples, words, length).
    """
    after = tokens.copy()
    after[:, prompt:] = answer.argmax(axis=1)[:, prompt - 1 : -1]
    ends = np.isin(after, (end, PADDING))
    ends[:, :prompt] = False
    after[np.cumsum(ends, axis=1) - ends > 0] = PADDING
    return after


def text_output(subject: Subject) -> int:
    """The output whose answers are the text."""
    assert subject.written is not None
    length = subject.beside[subject.written].shape
    return next(index for index, one in enumerate(subject.outputs) if one.classes and one.shape[1:] == length)


def _asking(module: nn.Module, inputs: Sequence[Tensor], text: int) -> Ask:
    """How a module is asked about some drafts; what it makes of the other inputs is computed once, where it tells that
    apart."""
    rest, others = module, list(inputs)
    if isinstance(module, Fronted):
        rest, others[0] = module.rest, module.front(inputs[0])
    if isinstance(rest, Remembering) and text == len(inputs) - 2:
        memory = rest.remember(*others[:-1])
        return lambda drafts, which: _numbers(rest.recall(torch.from_numpy(drafts), *(one[which] for one in memory)))

    def ask(drafts: Array, which: NDArray[np.int64]) -> tuple[Array, ...]:
        given = [one[which] for one in others]
        given[1 + text] = torch.from_numpy(drafts)
        return _numbers(rest(*given))

    return ask


def _numbers(answer: Any) -> tuple[Array, ...]:
    return tuple(one.float().numpy() for one in answers_of(answer))
