"""A user's own torch module, named `module:function` or `file.py:function`.

What it names may be a module, a function or class that makes one without arguments, or an edgekd.nets.Net. Example
inputs come with it, as the second of a pair or as the module's `example_inputs`: a tensor, a tuple of tensors, or a
dict of them by the names of the forward method; a Net with preprocessing needs none; else `shapes` must give them all.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import ConfigError
from edgekd.plugins import find_object
from edgekd.sources import Model, ModelSource
from edgekd.sources._failures import FAILURES, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _TorchModule:
    suffixes: tuple[str, ...] = ()

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        from edgekd.sources._calls import Flat, is_flat, tensors_of
        from edgekd.sources._description import describe

        with _seeded():
            made = _made(find_object(name), name)
        module, examples = _module_and_examples(made, name)
        inputs = _resized(module, _named(module, examples, name), shapes, name)
        keywords = _keywords(module, list(inputs))
        answer = _first_run(module, list(inputs.values()), keywords, name)
        outputs = [output for output, _ in tensors_of(answer)]
        if not outputs:
            raise ConfigError(f"{name}: the module returns no tensor")
        whole: nn.Module = Flat(module, keywords) if keywords or not is_flat(answer) else module
        given, found = describe(whole.eval(), list(inputs), list(inputs.values()), _distinct(outputs))
        return Model(whole, given, found, _properties(module))


def _made(named: Any, name: str) -> Any:
    from torch import nn

    if isinstance(named, nn.Module) or not callable(named):
        return named
    needed = [
        parameter.name
        for parameter in inspect.signature(named).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    if needed:
        raise ConfigError(
            f"{name} cannot be called without arguments: it needs {', '.join(needed)}",
            hint="name a function without arguments that returns the module",
        )
    return named()


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Random weights are the same in every process that makes the model; afterwards all generators go on as before."""
    import random

    import numpy as np
    import torch

    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)


def _module_and_examples(made: Any, name: str) -> "tuple[nn.Module, Any]":
    import torch
    from torch import nn

    from edgekd.nets import Net

    examples: Any = None
    if isinstance(made, tuple) and len(made) == 2:
        made, examples = made
    if isinstance(made, Net):
        if made.preprocessing and examples is None:
            examples = torch.zeros(1, len(made.preprocessing.mean), *made.preprocessing.size)
        made = made.module
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"{name} gave {type(made).__name__}", hint="return a torch.nn.Module, or a pair of it and example inputs"
        )
    if any(tensor.is_meta for tensor in (*made.parameters(), *made.buffers())):
        raise ConfigError(f"{name}: its weights are on the meta device", hint="load them before it is returned")
    return made.eval(), getattr(made, "example_inputs", None) if examples is None else examples


def _named(module: "nn.Module", examples: Any, name: str) -> "dict[str, Tensor]":
    """Example inputs by their names, as the forward method has them."""
    from torch import Tensor

    if examples is None:
        return {}
    if isinstance(examples, Mapping):
        named = dict(examples)
    else:
        inputs = (examples,) if isinstance(examples, Tensor) else examples
        names = _parameters(module)
        try:
            count = len(inputs)
        except TypeError:
            raise ConfigError(f"{name}: example inputs are of type {type(examples).__name__}") from None
        names += [f"input_{position}" for position in range(len(names), count)]
        named = dict(zip(names, inputs, strict=False))
    for key, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{name}: example input {key!r} is of type {type(tensor).__name__}", hint="example inputs are tensors"
            )
    return named


def _parameters(module: "nn.Module") -> list[str]:
    return [one.name for one in inspect.signature(module.forward).parameters.values() if one.kind in KINDS]


def _resized(
    module: "nn.Module", inputs: "dict[str, Tensor]", shapes: Mapping[str, tuple[int, ...]], name: str
) -> "dict[str, Tensor]":
    """The inputs with the shapes that are asked for; all of them float32 where no examples are there."""
    import torch

    parameters = inspect.signature(module.forward).parameters
    known = list(inputs) if inputs else [key for key in shapes if key in parameters]
    unknown = sorted(set(shapes) - set(known))
    if unknown:
        names = ", ".join(inputs or parameters)
        raise ConfigError(f"{name} has no input {unknown[0]!r}", hint=f"its inputs: {names}")
    if not known:
        raise ConfigError(
            f"{name}: the shapes of its inputs are not known",
            hint="return a pair of module and example inputs, or give the shapes",
        )
    if not inputs:
        known = [key for key in parameters if key in shapes]
    resized = {}
    for key in known:
        old = inputs.get(key)
        if old is not None and shapes.get(key, tuple(old.shape)) == tuple(old.shape):
            resized[key] = old
        else:
            resized[key] = torch.zeros(shapes[key], dtype=torch.float32 if old is None else old.dtype)
    return resized


def _keywords(module: "nn.Module", names: list[str]) -> list[str]:
    """Inputs that must be given by name: those behind the first that is not where the forward method has it."""
    own = _parameters(module)
    anything = any(one.kind is one.VAR_POSITIONAL for one in inspect.signature(module.forward).parameters.values())
    if anything and not own:
        return []
    matching = 0
    for name, parameter in zip(names, own, strict=False):
        if name != parameter:
            break
        matching += 1
    return names[matching:]


def _first_run(module: "nn.Module", inputs: "list[Tensor]", keywords: list[str], name: str) -> Any:
    import torch

    count = len(inputs) - len(keywords)
    try:
        with torch.no_grad():
            return module(*inputs[:count], **dict(zip(keywords, inputs[count:], strict=True)))
    except FAILURES as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ConfigError(
            f"{name}: the module does not take inputs of shapes {shapes}: {one_line(error)}",
            hint="give it example inputs of the right shapes and types",
        ) from error


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _properties(module: "nn.Module") -> dict[str, str]:
    """What the module carries of its classes and preprocessing, as artifacts keep it."""
    import msgspec

    from edgekd.specs import Preprocessing

    classes, preprocessing = getattr(module, "classes", None), getattr(module, "preprocessing", None)
    properties = {}
    if classes:
        properties["edgekd.classes"] = msgspec.json.encode([str(one) for one in classes]).decode()
    if isinstance(preprocessing, Preprocessing):
        properties["edgekd.preprocessing"] = msgspec.json.encode(preprocessing).decode()
    return properties


PLUGIN: Final[ModelSource] = _TorchModule()
