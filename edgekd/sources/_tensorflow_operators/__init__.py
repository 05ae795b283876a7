"""Operators of TensorFlow as torch steps, a file a kind of operator.

A translator sees a node and what its inputs stand for, and returns what its outputs stand for. To add an operator,
write a function in the file of its kind and decorate it with `@operator("Name")`.

Source: https://www.tensorflow.org/api_docs/python/tf/raw_ops.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

from edgekd.sources._tensorflow_graphs import Translator

_TABLE: dict[str, Translator] = {}


def operator(*names: str) -> Callable[[Translator], Translator]:
    """Enter a translator of these operators."""

    def enter(translator: Translator) -> Translator:
        for name in names:
            _TABLE[name] = translator
        return translator

    return enter


@cache
def table() -> Mapping[str, Translator]:
    """Name of an operator -> its translator, of all files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _TABLE
