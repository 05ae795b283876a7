"""The tree of errors on top of errors.py is the tree that there is, and the command line tells its exit codes."""

import inspect
import re

import pytest

from edgekd import errors
from edgekd.cli import EXIT_CODES
from edgekd.errors import BUDGET_BROKEN, EdgekdError

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, EdgekdError)]


def drawn() -> dict[str, tuple[str, int]]:
    """Name -> (name of what it hangs under, exit code), as the docstring draws it."""
    found: dict[str, tuple[str, int]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^([│ ├└─]*)([A-Z]\w+) +(\d+)", line):
            depth, name = len(match[1]), match[2]
            above = [(at, other) for at, other in above if at < depth]
            found[name] = (above[-1][1] if above else "Exception", int(match[3]))
            above.append((depth, name))
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    assert drawn() == {one.__name__: (one.__bases__[0].__name__, one.exit_code) for one in CLASSES}


def test_every_exit_code_is_told_and_means_one_thing() -> None:
    told = [int(number) for number in re.findall(r"(?<![\w-])(\d+) ", EXIT_CODES)]
    codes = {one.exit_code for one in CLASSES}
    assert BUDGET_BROKEN == 5 and BUDGET_BROKEN not in codes
    assert told == [*range(13), 130]
    assert codes == set(told) - {0, BUDGET_BROKEN, 130}
    assert f"({BUDGET_BROKEN}: " in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_has_a_message_and_a_hint(kind: type[EdgekdError]) -> None:
    error = kind("what happened", hint="what to do")
    assert str(error) == "what happened" and error.hint == "what to do"
    assert kind("what happened").hint == ""
