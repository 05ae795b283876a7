"""What goes wrong with somebody else's model, in one line."""

from typing import Final

FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch and Python raise where shapes, types, names and contents do not fit each other."""

LONGEST: Final = 160
ARGUMENTS: Final = ("positional argument", "unexpected keyword", "required positional")
"""What Python says of functions that are called with too many or too few."""


def clean(name: str, longest: int = 80) -> str:
    """A name from a file, fit to be printed on one line."""
    plain = "".join(character if character.isprintable() else "?" for character in name[: longest + 1])
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."


def misfit(error: BaseException) -> str:
    """As `one_line`, of an error that an operator's function raised."""
    if isinstance(error, TypeError) and any(words in str(error) for words in ARGUMENTS):
        return "it has too many inputs, or too few"
    return one_line(error)


def one_line(error: BaseException) -> str:
    """What an error says, in one line; the name of its kind where it says nothing."""
    if isinstance(error, KeyError) and error.args:
        return f"{clean(str(error.args[0]))!r} is missing"
    return clean(next(iter(str(error).strip().splitlines()), "") or type(error).__name__, LONGEST)
