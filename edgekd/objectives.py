"""What a student is trained on: the losses of its lesson, added up by their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import losses
from edgekd.errors import ConfigError
from edgekd.fronts import Fronted
from edgekd.heads import tasks_of
from edgekd.layers import Tap, pairs_of, shapes_of
from edgekd.losses import Batch, Features, Pair, on_layers
from edgekd.nets import Net, input_shape
from edgekd.oracles import Oracle
from edgekd.plugins import find, options
from edgekd.rows import Rows
from edgekd.specs import LossChoice, Subject
from edgekd.training import Shown, targets


@dataclass(frozen=True)
class Term:
    """A loss of a recipe, with its options decoded."""

    choice: LossChoice
    plugin: Any
    options: Any

    @property
    def on_layers(self) -> bool:
        """Whether it compares layers: some losses can look at outputs as well."""
        return bool(self.choice.layers)

    @property
    def needs_teacher(self) -> bool:
        """Whether the twin that has no teacher does without it."""
        return self.on_layers or bool(self.plugin.needs_teacher)

    def weight(self, progress: float) -> float:
        """At a share of the training that is done."""
        ends = self.choice.weight if self.choice.ends is None else self.choice.ends
        return self.choice.weight + (ends - self.choice.weight) * progress


def terms_of(choices: Sequence[LossChoice], subject: Subject) -> list[Term]:
    """A recipe's losses, ready to be computed.

    Raises:
        ConfigError: unknown options, outputs or combinations; the message says which loss it is.
    """
    return [_term(choice, subject) for choice in choices]


def teachable(terms: Sequence[Term]) -> list[Term]:
    """Those that a twin without a teacher learns from.

    Raises:
        ConfigError: there is none.
    """
    found = [term for term in terms if not term.needs_teacher and max(term.weight(0), term.weight(1)) > 0]
    if not found:
        raise ConfigError(
            "every loss needs the teacher, so nothing can show what distillation brings", hint="add the loss `labels`"
        )
    return found


def _term(choice: LossChoice, subject: Subject) -> Term:
    plugin = find(losses, choice.name)
    where = f"loss {choice.name}"
    table = options(plugin.Options, choice.options, f"options of {where}")
    if not callable(plugin) and not choice.layers:
        hint = 'layers = [{ teacher = "blocks.3", student = "blocks.1" }]'
        raise ConfigError(f"{where} compares layers, and the recipe names none", hint=hint)
    if choice.layers and not on_layers(plugin):
        raise ConfigError(f"{where} compares outputs, and the recipe names layers", hint="leave `layers` out")
    if choice.head and choice.head not in [one.name for one in subject.outputs]:
        names = ", ".join(one.name for one in subject.outputs)
        raise ConfigError(f"{where} is for the head {choice.head!r}, which is not there", hint=f"heads: {names}")
    term = Term(choice, plugin, table)
    if not term.on_layers and not heads_of(term, subject):
        which = f"{choice.head} is none" if choice.head else "no output is one"
        raise ConfigError(f"{where} compares choices of a class, and {which}", hint="another loss")
    return term


def heads_of(term: Term, subject: Subject) -> list[int]:
    """Which of the subject's outputs a loss on outputs looks at."""
    return [
        index
        for index, output in enumerate(subject.outputs)
        if term.choice.head in {"", output.name}
        and (output.is_choice or not getattr(term.plugin, "needs_classes", False))
    ]


class Objective(nn.Module):
    """Maps a student's answers to its loss.

    Without an oracle it is that of the twin. `nets` are the first teacher and the student, whose layers are compared;
    without them losses on layers are left out.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        subject: Subject,
        labels: Sequence[NDArray[Any] | Rows],
        oracle: Oracle | None,
        *,
        nets: tuple[Net, Net] | None = None,
        smoothing: float = 0.0,
        weighting: str = "fixed",
    ) -> None:
        super().__init__()
        self._subject, self._labels, self._oracle, self._smoothing = subject, labels, oracle, smoothing
        self._tasks = tasks_of(subject)
        heard = terms if oracle else teachable(terms)
        self._on_outputs = [(term, heads_of(term, subject)) for term in heard if not term.on_layers]
        compared = [term for term in heard if term.on_layers]
        self._on_layers = [Comparison(term, subject, *nets) for term in compared] if nets else []
        self.comparisons = nn.ModuleList([one.module for one in self._on_layers])
        """Their learned parts."""
        watched = _distinct(path for one in self._on_layers for _, path in one.paths)
        self._tap = Tap(nets[1].module, watched) if nets else None
        self.noise = nn.Parameter(torch.zeros(len(subject.outputs)), requires_grad=weighting == "uncertainty")
        """s = log sigma^2 of each output."""

    def forward(self, answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        """Scalar; weights are shares of their sum. What a student wrote itself is nobody's example: of that, only the
        teachers are heard."""
        device = shown.device
        given = targets(self._labels, shown.indices) if shown.labels is None else [shown.labels]
        labels = [one.to(device) for one in given]
        heard: Sequence[Tensor | None] = self._oracle.outputs(shown) if self._oracle else [None] * len(answers)
        said = [None if one is None else one.to(device) for one in heard]
        on_outputs = [one for one in self._on_outputs if shown.labels is None or one[0].needs_teacher]
        losses = [(term, self._of_outputs(term, heads, answers, said, labels)) for term, heads in on_outputs]
        if self._on_layers:
            assert self._oracle is not None and self._tap is not None
            layers = {path: one.to(device) for path, one in self._oracle.layers(shown).items()}
            losses += [(one.term, one.loss(self._tap.found, layers, shown, labels[0])) for one in self._on_layers]
        weights = [term.weight(shown.progress) for term, _ in losses]
        weighed = [weight * loss for weight, (_, loss) in zip(weights, losses, strict=True)]
        total = torch.stack(weighed).sum() / (sum(weights) or 1.0)
        return total + 0.5 * self.noise.sum() if self.noise.requires_grad else total

    def close(self) -> None:
        """Leave the student's net as it was."""
        if self._tap:
            self._tap.close()

    def _of_outputs(
        self,
        term: Term,
        heads: Sequence[int],
        answers: Sequence[Tensor],
        said: Sequence[Tensor | None],
        labels: Sequence[Tensor],
    ) -> Tensor:
        """A loss over all its heads, by the weights of those."""
        heads = [head for head in heads if said[head] is not None] if term.needs_teacher else heads
        weights = [self._subject.outputs[head].weight for head in heads]
        values = []
        for head, weight in zip(heads, weights, strict=True):
            batch = Batch(answers[head], said[head], labels[head], self._tasks[head], self._smoothing)
            value = weight / max(sum(weights), 1e-12) * term.plugin(batch, term.options)
            values.append(value * torch.exp(-self.noise[head]) if self.noise.requires_grad else value)
        return torch.stack(values).sum()


class Comparison:
    """A loss on layers: which, and what is learned to compare them."""

    def __init__(self, term: Term, subject: Subject, teacher: Net, student: Net) -> None:
        self.term = term
        self._tokens = subject.kind == "tokens"
        self.paths = pairs_of(teacher.module, student.module, term.choice.layers)
        frozen = [path for pair in self.paths for path in pair if path.partition(".")[0] == "front"]
        if isinstance(student.module, Fronted) and frozen:
            raise ConfigError(
                f"loss {term.choice.name} compares {frozen[0]!r}, which is never trained", hint='layers below "rest"'
            )
        theirs = shapes_of(teacher.module, _distinct(path for path, _ in self.paths), *example_of(teacher, subject))
        ours = shapes_of(student.module, _distinct(path for _, path in self.paths), *example_of(student, subject))
        pairs = [_pair(ours[path], theirs[other], subject) for other, path in self.paths]
        self.module: nn.Module = term.plugin.build(term.options, pairs)

    def loss(self, student: dict[str, Tensor], teacher: dict[str, Tensor], shown: Shown, labels: Tensor) -> Tensor:
        """Of what the layers answered."""
        mask = shown.inputs[0] != 0 if self._tokens else None
        indices = torch.from_numpy(shown.indices).to(shown.device)
        found = self.module(
            [Features(student[ours], teacher[theirs], mask, labels, indices) for theirs, ours in self.paths]
        )
        assert isinstance(found, Tensor)
        return found


def _pair(student: tuple[int, ...], teacher: tuple[int, ...], subject: Subject) -> Pair:
    by_token = subject.kind == "tokens" and subject.shape == student[:1] == teacher[:1]
    return Pair(student=student, teacher=teacher, by_token=by_token)


def example_of(net: Net, subject: Subject) -> tuple[Tensor, ...]:
    """All inputs of a batch of one that a net takes, of the first word or of zeros."""
    first = _example(input_shape(net, subject.shape), subject.kind)
    return (first, *(_example(one.shape, one.kind) for one in subject.beside))


def _example(shape: tuple[int, ...], kind: str) -> Tensor:
    return torch.ones(1, *shape, dtype=torch.int64) if kind == "tokens" else torch.zeros(1, *shape)


def watched(choices: Sequence[LossChoice], teacher: nn.Module, student: nn.Module) -> tuple[str, ...]:
    """The teacher's layers that losses look at, sorted."""
    return tuple(sorted({path for choice in choices for path, _ in pairs_of(teacher, student, choice.layers)}))


def _distinct(paths: Any) -> list[str]:
    return list(dict.fromkeys(paths))
