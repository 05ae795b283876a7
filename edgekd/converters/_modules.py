"""Torch modules in files: which operators belong to one, names that are given once, and weights as a key."""

import difflib
import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from edgekd.converters import Source
from edgekd.errors import ConvertError

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def check_in_float(source: Source) -> None:
    """Raise unless every module that is to stay in float is one of the model's.

    Raises:
        ConvertError: one is not; the hint has the nearest.
    """
    known = [path for path, _ in source.module.named_modules() if path]
    for path in source.quantization.in_float:
        if path not in known:
            close = difflib.get_close_matches(path, known, n=1)
            raise ConvertError(
                f"in_float names {path!r}, and the model has no such module",
                hint=f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known[:10])}",
            )


def lies_below(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a name that a converter gave belongs to one of the modules, or to one inside of them.

    >>> lies_below("blocks.3.conv:1", ("blocks.3",)), lies_below("blocks.30", ("blocks.3",))
    (True, False)
    """
    layer = name.partition(":")[0]
    return any(layer == module or layer.startswith(f"{module}.") for module in modules)


class Names:
    """Gives every name once: a name that was given gets a number behind a colon.

    >>> names = Names()
    >>> names.unique("conv"), names.unique("conv"), names.unique("head")
    ('conv', 'conv:1', 'head')
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._count: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """The name, or the next free one like it."""
        free = name
        while free in self._given:
            self._count[name] += 1
            free = f"{name}:{self._count[name]}"
        self._given.add(free)
        return free


def fingerprint(module: "nn.Module") -> str:
    """SHA-256 of all weights and buffers."""
    import torch

    sha = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fold_norms(program: "ExportedProgram") -> None:
    """Let batch norms belong to the module of the convolution that every format folds them into."""
    for node in program.graph.nodes:
        if node.op != "call_function" or "batch_norm" not in str(node.target):
            continue
        before = node.args[0]
        if before.op == "call_function" and "conv" in str(before.target) and len(before.users) == 1:
            node.meta["nn_module_stack"] = before.meta.get("nn_module_stack")
