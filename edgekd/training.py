"""The training loop: every step is a function of (seed, step), so a killed training goes on to the same bits."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekd.crew import joined
from edgekd.errors import ConfigError, TrainingDiverged
from edgekd.files import replacing
from edgekd.nets import answers_of, evaluating
from edgekd.progress import tell
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Data, Preprocessing, TensorSpec, Training, Views
from edgekd.views import Viewer


@dataclass(frozen=True)
class Shown:
    """What a net was shown in one step of its training."""

    inputs: tuple[Tensor, ...]
    indices: NDArray[np.int64]
    """Which examples these are."""
    epoch: int
    progress: float
    """Share of the training that is done, 0 up to 1."""
    labels: Tensor | None = None
    """Of texts that the net has written itself, (batch, length); None where the examples are those of the data."""

    @property
    def device(self) -> torch.device:
        """Where the net computes."""
        return self.inputs[0].device


Objective = Callable[[tuple[Tensor, ...], Shown], Tensor]
"""Loss of a batch: (the net's answers, one an output; what it was shown) -> scalar. Where it is a module, what is
trainable in it is trained as well."""

Writer = Callable[[Tensor, NDArray[np.int64], int], tuple[Tensor, Tensor] | None]
"""From a batch, its indices and the number of the step to what the net makes of it, inputs and labels; None where the
batch stays as it is."""

CHECKPOINT_SECONDS = 3.0
CHECKPOINT_SHARE = 0.03
"""Of the time of a training, that checkpoints may take."""
BATCH_OF_INFERENCE = 200
LABELS_AT_ONCE = 1000
"""That are looked at together, for the sake of memory."""


def fit(
    module: nn.Module,
    viewer: Viewer,
    objective: Objective,
    training: Training,
    *,
    views: int,
    seed: int,
    checkpoint: Path,
    what: str,
    examples: NDArray[np.int64] | None = None,
    writer: Writer | None = None,
) -> None:
    """Train a module in place on `examples` (all by default), from its checkpoint where there is one.

    Epoch e shows view e modulo `views`, or what the `writer` makes of it. Examples that do not fill a last batch are
    left for another epoch.

    Raises:
        TrainingDiverged: the loss is not finite, or what it has made of the weights; the last good checkpoint is kept,
            and the hint says where.
    """
    crew = joined()
    course = _Course(np.arange(len(viewer)) if examples is None else examples, training, seed, what)
    crew.check(course.batch, what)
    learned = nn.ModuleDict({"net": module, "loss": objective} if isinstance(objective, nn.Module) else {"net": module})
    learned.to(crew.device)
    optimiser = _optimiser(learned, training)
    keeper = _Keeper(learned, optimiser, checkpoint, saves=crew.rank == 0)
    module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's stub lacks this form
    start = _resume(learned, optimiser, checkpoint)
    if training.epochs > views:
        viewer.keep(views)
    for step in range(start, course.steps):
        epoch, within = divmod(step, course.per_epoch)
        if within == 0 or step == start:
            tell(what, step, course.steps)
        indices = crew.part(course.examples(epoch, within))
        _seed(crew.device, seed * 1_000_003 + step + crew.rank * 1_000_000_007)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(training, step, course.steps)
        inputs = tuple(one.to(crew.device) for one in viewer.inputs(indices, epoch % views))
        shown = Shown(inputs, indices, epoch, step / course.steps)
        loss = _loss(module, objective, _rewritten(shown, writer, step), training.autocast)
        found = crew.mean(loss).item()
        if not math.isfinite(found):
            raise keeper.diverged(f"{what}: the loss is {found} at step {step} of {course.steps}", step, training)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        crew.average(learned.parameters())
        if training.clip:
            nn.utils.clip_grad_norm_(learned.parameters(), training.clip)
        optimiser.step()
        keeper.after(step + 1, course.steps)
    if not keeper.is_finite():
        raise keeper.diverged(f"{what}: the last step left weights that are not finite", course.steps, training)
    tell(what, course.steps, course.steps)
    module.cpu().eval()


def _seed(device: torch.device | str, seed: int) -> None:
    """Of dropout; torch.manual_seed looks for every kind of device, which takes half a millisecond of each step."""
    seeded = torch.default_generator if torch.device(device).type == "cpu" else torch
    seeded.manual_seed(seed)


class _Course:
    """Which examples each step of a training shows."""

    def __init__(self, pool: NDArray[np.int64], training: Training, seed: int, what: str) -> None:
        if not len(pool):
            raise ConfigError(
                f"{what}: no examples are left to learn from", hint="more data, or a smaller share held out"
            )
        self._pool, self._seed = pool, seed
        self.batch = min(training.batch, len(pool))
        self.per_epoch = len(pool) // self.batch
        self.steps = training.epochs * self.per_epoch
        self._order: tuple[int, NDArray[np.int64]] = (-1, pool)

    def examples(self, epoch: int, within: int) -> NDArray[np.int64]:
        """Sorted indices of the examples of a step within an epoch."""
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._pool)
        return np.sort(self._order[1][within * self.batch : (within + 1) * self.batch])


class _Keeper:
    """Saves a checkpoint every some seconds, and so that a large net spends little of its time on it."""

    def __init__(self, learned: nn.ModuleDict, optimiser: torch.optim.Optimizer, path: Path, *, saves: bool) -> None:
        """`saves` is true of the first of several processes alone."""
        self._learned, self._optimiser, self._path, self._saves = learned, optimiser, path, saves
        self._due = time.monotonic() + CHECKPOINT_SECONDS

    def after(self, done: int, steps: int) -> None:
        """Save where it is time, or where `done` of the steps are all; never what is not finite any more."""
        began = time.monotonic()
        if not self._saves or (began <= self._due and done < steps) or not self.is_finite():
            return
        _save(self._learned, self._optimiser, done, self._path)
        ended = time.monotonic()
        self._due = ended + max(CHECKPOINT_SECONDS, (ended - began) / CHECKPOINT_SHARE)

    def diverged(self, what: str, done: int, training: Training) -> TrainingDiverged:
        """What to raise; before the first checkpoint was due it is made now."""
        if self._saves and not self._path.exists() and self.is_finite():
            _save(self._learned, self._optimiser, done, self._path)
        kept = f"the last good checkpoint is {self._path}" if self._path.exists() else "no checkpoint was due before it"
        return TrainingDiverged(
            what, hint=f"lower learning_rate (now {training.learning_rate}), or `clip` gradients; {kept}"
        )

    def is_finite(self) -> bool:
        """Whether all weights of the net are numbers."""
        return all(bool(one.isfinite().all()) for one in self._learned["net"].state_dict().values())


def _rewritten(shown: Shown, writer: Writer | None, step: int) -> Shown:
    """What the net makes of a batch itself, where it does."""
    written = writer(shown.inputs[0], shown.indices, step) if writer else None
    return replace(shown, inputs=(written[0],), labels=written[1]) if written else shown


def _loss(module: nn.Module, objective: Objective, shown: Shown, autocast: bool) -> Tensor:
    with torch.autocast(shown.device.type, torch.bfloat16, enabled=autocast):
        answers = answers_of(module(*map(_channels_last, shown.inputs)))
    return objective(tuple(one.float() for one in answers), shown)


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warmup = max(1, round(training.warmup * steps))
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def predict(
    module: nn.Module, viewer: Viewer, view: int | None = None, examples: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], ...]:
    """For each output the answers in evaluation mode, of shape (examples, ...)."""
    batches = [answers for _, answers in predicting(module, viewer, view, examples)]
    return tuple(np.concatenate(one) for one in zip(*batches, strict=True))


def predicting(
    module: nn.Module,
    viewer: Viewer,
    view: int | None = None,
    examples: NDArray[np.int64] | None = None,
    batch: int = BATCH_OF_INFERENCE,
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[np.float32], ...]]]:
    """As `predict`, batch after batch: (indices, answers)."""
    pool = np.arange(len(viewer)) if examples is None else examples
    with evaluating(module):
        for start in range(0, len(pool), batch):
            indices = pool[start : start + batch]
            answer = module(*map(_channels_last, viewer.inputs(indices, view)))
            yield indices, tuple(one.float().numpy() for one in answers_of(answer))


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def _optimiser(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels alone, not for biases and norms (Goyal et al. 2017, arXiv:1706.02677)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if training.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9, nesterov=True, fused=True)


def _save(module: nn.Module, optimiser: torch.optim.Optimizer, step: int, path: Path) -> None:
    tensors = dict(module.state_dict())
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    with replacing(path) as part:
        copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copies, part, metadata={"step": str(step)})


def _resume(module: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Steps already done; 0 where there is no checkpoint, or an unreadable one."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            step = int((opened.metadata() or {})["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return 0
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimiser.")}
    if {name: tensor.shape for name, tensor in weights.items()} != {
        name: tensor.shape for name, tensor in module.state_dict().items()
    }:
        return 0  # of another net: a user's code has changed
    module.load_state_dict(weights)
    whole = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**whole, "state": state})
    for parameter, found in optimiser.state.items():
        for name, value in found.items():
            if value.shape == parameter.shape:  # a fused optimiser takes it for laid out as its parameter is
                found[name] = torch.empty_like(parameter).copy_(value)
    return step


def viewer_of(
    work: Work,
    data: Data,
    split: Literal["train", "test"],
    preprocessing: Preprocessing | None,
    views: Views | None = None,
    seed: int = 0,
) -> Viewer:
    """A split of the data as a net with this preprocessing sees it; read as it is looked at."""
    first, *beside = (Rows(work.path(file)) for file in data.inputs(split))
    return Viewer(first, preprocessing, views, seed, beside)


def train_labels(work: Work, data: Data) -> tuple[Rows, ...]:
    """For each output the labels to learn from; read as they are looked at."""
    return tuple(Rows(work.path(file)) for file in data.train_labels)


def labelled(labels: Sequence[Rows | NDArray[Any]]) -> NDArray[np.int64]:
    """Indices of the examples that have a label for at least one output: of the others nothing can be learned."""
    count = len(labels[0])
    pieces = np.array_split(np.arange(count), -(-count // LABELS_AT_ONCE))
    return np.concatenate([piece[np.any([_known_in(one[piece]) for one in labels], axis=0)] for piece in pieces])


def _known_in(labels: NDArray[Any]) -> NDArray[np.bool_]:
    known = np.isfinite(labels) if labels.dtype.kind == "f" else labels >= 0
    return np.asarray(known.reshape(len(labels), -1).any(axis=1), np.bool_)


def targets(labels: Sequence[Rows | NDArray[Any]], indices: NDArray[np.int64]) -> list[Tensor]:
    """The labels of some examples as losses take them: whole numbers as int64, others as float32."""
    chosen = [one[indices] for one in labels]
    return [torch.from_numpy(np.asarray(one, np.int64 if one.dtype.kind in "iu" else np.float32)) for one in chosen]


def labels_of(
    work: Work, data: Data, split: Literal["train", "test"], examples: NDArray[np.int64] | None = None
) -> tuple[NDArray[Any], ...]:
    """A split's labels, for each output an array of shape (examples, ...); of some examples, where those are given."""
    files = data.train_labels if split == "train" else data.test_labels
    mapped = [np.load(work.path(file), mmap_mode="r", allow_pickle=False) for file in files]
    return tuple(np.array(one if examples is None else one[examples]) for one in mapped)


def in_layouts(inputs: Sequence[Tensor], wanted: Sequence[TensorSpec]) -> tuple[NDArray[Any], ...]:
    """All inputs of examples as `in_layout` has each."""
    return tuple(in_layout(one.numpy(), spec) for one, spec in zip(inputs, wanted, strict=True))


def in_layout(examples: NDArray[Any], wanted: TensorSpec) -> NDArray[Any]:
    """Examples of shape (examples, *shape), as they are in PyTorch, each as a batch of one in the layout of a model."""
    ordered = np.ascontiguousarray(examples.transpose(0, 2, 3, 1)) if wanted.layout == "NHWC" else examples
    return (ordered if ordered.dtype.kind == "f" else ordered.astype(wanted.dtype))[:, None]
