"""Layers of a module by their paths: which there are, which belong together, what they answer."""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.specs import LayerMap

SHOWN: Final = 3
"""Near misses that a message names."""


class Tap:
    """Keeps what layers of a module answered when it last computed.

    Raises:
        ConfigError: there is no such layer; the message names the nearest.
    """

    def __init__(self, module: nn.Module, paths: Sequence[str]) -> None:
        self.found: dict[str, Tensor] = {}
        """By path; of shape (batch, ...)."""
        self._hooks = [layer_of(module, path).register_forward_hook(partial(self._keep, path)) for path in paths]

    def close(self) -> None:
        """Leave the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, path: str, module: nn.Module, _: Any, answer: Any) -> None:
        self.found[path] = _chosen(path, answer).float()  # of whatever type it was computed in


def layer_of(module: nn.Module, path: str) -> nn.Module:
    """The module at a path; the number of an output behind a colon is left out of account."""
    name = path.partition(":")[0]
    found = dict(module.named_modules())
    if name not in found:
        raise _no_layer(name, list(found), "the net")
    layer: nn.Module = found[name]
    return layer


def pairs_of(teacher: nn.Module, student: nn.Module, maps: Sequence[LayerMap]) -> tuple[tuple[str, str], ...]:
    """Paths in the teacher, each with its path in the student.

    Raises:
        ConfigError: a layer is not there, or the map asks for more of the teacher's than it has.
    """
    return tuple(pair for one in maps for pair in _pairs(_names(teacher), _names(student), one))


def shapes_of(module: nn.Module, paths: Sequence[str], *example: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of what each layer answers for an example (a batch of one input, or of several), without the batch; the
    module computes once.

    Raises:
        ConfigError: a layer does not exist, is not used, or answers no tensor of the batch.
    """
    tap = Tap(module, paths)
    was_training = module.training
    try:
        with torch.no_grad():
            module.eval()(*example)
    finally:
        module.train(was_training)
        tap.close()
    unused = [path for path in paths if path not in tap.found]
    if unused:
        raise ConfigError(f"the layer {unused[0]!r} answers nothing when the net computes", hint="choose another layer")
    for path, found in tap.found.items():
        if not found.dim() or len(found) != len(example[0]):
            raise ConfigError(
                f"the layer {path!r} answers a tensor of shape {tuple(found.shape)}, which has no axis of examples",
                hint="choose another layer",
            )
    return {path: tuple(found.shape[1:]) for path, found in tap.found.items()}


def copy_layers(teacher: nn.Module, student: nn.Module, maps: Sequence[LayerMap]) -> int:
    """Copy weights and buffers of the teacher's layers into the student's, name by name; how many tensors were copied.

    Raises:
        ConfigError: names or shapes differ.
    """
    copied = 0
    for theirs, ours in pairs_of(teacher, student, maps):
        given, taken = layer_of(teacher, theirs).state_dict(), layer_of(student, ours).state_dict()
        differing = [name for name in taken if name not in given or given[name].shape != taken[name].shape]
        if differing:
            name = differing[0]
            there = tuple(given[name].shape) if name in given else "not there"
            raise ConfigError(
                f"{ours}.{name} of the student is {tuple(taken[name].shape)}, in the teacher's {theirs} it is {there}",
                hint="start from layers of one shape, or give the student the teacher's width",
            )
        layer_of(student, ours).load_state_dict({name: given[name].clone() for name in taken})
        copied += len(taken)
    return copied


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules()]


def _pairs(teacher: list[str], student: list[str], wanted: LayerMap) -> list[tuple[str, str]]:
    theirs, ours = _matching(wanted.teacher, teacher, "the teacher"), _matching(wanted.student, student, "the student")
    if len(ours) > len(theirs) or (wanted.map == "same" and len(ours) != len(theirs)):
        raise ConfigError(
            f"the student has {len(ours)} of {wanted.student!r}, the teacher {len(theirs)} of {wanted.teacher!r}",
            hint="name layers that both have" if wanted.map == "same" else "a smaller student, or fewer of its layers",
        )
    return [
        (theirs[index], path) for index, path in zip(_chosen_of(wanted.map, len(theirs), len(ours)), ours, strict=True)
    ]


def _chosen_of(how: str, there: int, wanted: int) -> list[int]:
    """Which of the teacher's layers are looked at.

    >>> _chosen_of("uniform", 12, 4), _chosen_of("last", 6, 2), _chosen_of("first", 6, 2), _chosen_of("spaced", 6, 2)
    ([2, 5, 8, 11], [4, 5], [0, 1], [0, 5])
    """
    if how == "spaced":
        return [round(index * (there - 1) / max(1, wanted - 1)) for index in range(wanted)]
    if how == "uniform":
        return [(index + 1) * there // wanted - 1 for index in range(wanted)]
    return list(range(there - wanted, there)) if how == "last" else list(range(wanted))


def _matching(pattern: str, names: list[str], whose: str) -> list[str]:
    """The layers that a pattern stands for, in the order of their numbers; `whose` they are is for the message."""
    path, colon, which = pattern.partition(":")
    if colon and not which.isdecimal():
        raise ConfigError(
            f"{pattern!r}: behind the colon stands {which!r}", hint='"path:1" is a layer\'s second output'
        )
    expression = re.compile(re.escape(path).replace(r"\*", "([0-9]+)"))
    found = [(match.groups(), name) for name in names if (match := expression.fullmatch(name))]
    if not found:
        raise _no_layer(path, names, whose)
    alike = [(tuple(map(int, numbers)), name) for numbers, name in found if len(set(numbers)) <= 1]
    return [f"{name}{colon}{which}" for _, name in sorted(alike)]


def _no_layer(path: str, names: list[str], whose: str) -> ConfigError:
    plain = {re.sub(r"[0-9]+", "*", name): name for name in reversed(names)} if "*" in path else dict.fromkeys(names)
    there = [one for one in plain if one]
    around = sorted((one for one in there if path.startswith(f"{one}.")), key=len)[-1:]
    alike = difflib.get_close_matches(path, there, n=SHOWN, cutoff=0.3)
    near = list(dict.fromkeys([*alike, *around]))[:SHOWN]
    hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(there[:SHOWN])} ..."
    return ConfigError(f"{whose} has no layer {path!r}", hint=hint)


def _chosen(path: str, answer: Any) -> Tensor:
    _, colon, which = path.partition(":")
    if colon and isinstance(answer, tuple | list) and int(which) < len(answer):
        answer = answer[int(which)]
    elif colon:
        raise ConfigError(f"the layer {path!r} returns {_outline(answer)}", hint="leave the number out, or another one")
    elif isinstance(answer, tuple | list) and answer:
        answer = answer[0]
    if not isinstance(answer, Tensor):
        raise ConfigError(f"the layer {path!r} returns {_outline(answer)}, no tensor", hint="choose another layer")
    return answer


def _outline(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple | list) else f"one {type(answer).__name__}"
