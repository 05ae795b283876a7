"""Inputs and outputs of a model, as formats want them."""

from collections import Counter

from edgekd.converters import Source
from edgekd.errors import ConvertError


def check_names_differ(source: Source, format: str) -> None:
    """Raise unless each input and output has a name of its own.

    Raises:
        ConvertError: names one that two of them have.
    """
    names = Counter(given.name for given in (*source.inputs, *source.outputs))
    ((name, count),) = names.most_common(1)
    if count > 1:
        raise ConvertError(
            f"{format} cannot give {count} inputs and outputs the one name {name!r}", hint="give each its own"
        )
