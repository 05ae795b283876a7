"""The command line: a verb a file. Nothing heavy is imported before a verb needs it."""

import sys

import typer

from edgekd.cli import (
    bench,
    blame,
    cache,
    calibrate,
    compare,
    compile,
    device,
    distil,
    doctor,
    engines,
    estimate,
    export,
    measure,
    plan,
    recipes,
    report,
    run,
    suite,
    sweep,
    targets,
    teach,
    verify,
)
from edgekd.errors import EdgekdError

EXIT_CODES = """Exit codes: 0 done, and the budget holds; 1 a bug of ours; 2 a file or an option that cannot be
accepted; 3 no student fits; 4 a plugin or package is missing; 5 done, and the budget or parity is broken; 6 a step or
an export was changed; 7 the run folder is in use; 8 conversion failed; 9 measuring failed; 10 the disk is full or
closed; 11 training diverged; 12 a worker process died; 130 interrupted."""

app = typer.Typer(
    name="edgekd",
    help="Distil a teacher into a student that fits a device, export it, and prove that it fits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (
    run,
    teach,
    plan,
    distil,
    export,
    compile,
    verify,
    measure,
    report,
    estimate,
    calibrate,
    bench,
    suite,
    sweep,
    blame,
    compare,
    targets,
    recipes,
    engines,
    device,
    cache,
    doctor,
):  # as work goes
    app.command(name=verb.__name__.rpartition(".")[2])(verb.command)

_OF_TRAIN = {"torch", "safetensors", "PIL"}
_ClickException = typer.BadParameter.__mro__[2]  # Typer carries a Click of its own, whose names are not public


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    if not (sys.argv[1:] if arguments is None else arguments):
        arguments = ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except EdgekdError as error:
        return _complain(str(error), error.hint, error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _complain("interrupted", "run the same command again; it goes on from there", 130)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # the reader of our output has left, which is its right
            return 0
        raise
    except ModuleNotFoundError as missing:  # the base install has no torch
        if missing.name not in _OF_TRAIN:
            raise
        return _complain(f"this needs the package {missing.name!r}", "pip install 'edgekd[train]'", 4)
    except Exception as error:
        if isinstance(error, _ClickException):
            message: str = error.format_message()  # type: ignore[attr-defined]  # Click's, which has no public name
            return _complain(message, "`edgekd --help` and `edgekd VERB --help` say what there is", 2)
        raise
    return code if isinstance(code, int) else 0


def _complain(message: str, hint: str, code: int) -> int:
    print(f"edgekd: {_one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_one_line(hint)}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    """On one line, and with nothing in it that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)
