"""`edgekd engines` and `edgekd engines install NAME`: runtimes, and compilers of neural processors."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, progress_bars, table
from edgekd.errors import ConfigError, EdgekdError

FACTS_TIMEOUT_S = 60.0


def command(
    action: Annotated[
        Literal["install"] | None, typer.Argument(help="install: make the environment that an engine has of its own.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="The engine, or the compiler, to install.")] = None,
    json: AsJson = False,
) -> None:
    """Show the runtimes that edgekd can execute artifacts on, with those that are installed here."""
    from edgekd import compilers, engines
    from edgekd.plugins import known, names
    from edgekd.workers import cores, together

    compiling = names(compilers)
    if action:
        if not name:
            raise ConfigError("install which engine?", hint="`edgekd engines` lists them")
        if name not in compiling:
            known(engines, name)
        _install(name, compilers.path(name) if name in compiling else engines.path(name))
    executing = [one for one in names(engines) if name in {None, one}]
    found = together([partial(_described, one) for one in executing], at_once=cores())
    compiled = [_compiler(one) for one in compiling if name in {None, one}]
    if json:
        print_json({"schema": 1, "engines": found, "compilers": compiled})
        return
    shown = table("engine or compiler", "runtime", "takes", "to install it")
    for one in (*found, *compiled):
        state = one["version"] or one["problem"] or "not installed"
        shown.add_row(
            *map(plain, (one["name"], state, " ".join(one["suffixes"]), "" if one["version"] else one["install"]))
        )
    console().print(shown)


def _install(name: str, file: Path) -> None:
    from edgekd import engines, environments

    if not environments.packages_of(file):
        raise ConfigError(f"{name} has no environment of its own", hint=engines.how_to_install(name))
    with progress_bars():
        environments.install(file)


def _compiler(name: str) -> dict[str, Any]:
    from edgekd import compilers, environments
    from edgekd.plugins import find

    packages, installed = environments.packages_of(compilers.path(name)), compilers.installed(name)
    return {
        "name": name,
        "installed": installed,
        "version": packages[0].partition("==")[2] if installed else "",
        "problem": "",
        "suffixes": list(find(compilers, name).suffixes),
        "environment": list(packages),
        "install": compilers.how_to_install(name),
    }


def _described(name: str) -> dict[str, Any]:
    from edgekd import engines, environments
    from edgekd.plugins import find

    described = {
        "name": name,
        "installed": engines.installed(name),
        "version": "",
        "problem": "",
        "suffixes": list(find(engines, name).suffixes),
        "environment": list(environments.packages_of(engines.path(name))),
        "install": engines.how_to_install(name),
    }
    if described["installed"]:
        described |= _asked(engines.path(name), engines.GUEST)
    return described


def _asked(engine: Path, guest: Path) -> dict[str, str]:
    """What the engine itself says, in a process of its own: a runtime that is here may be broken."""
    from edgekd import devices
    from edgekd.plugins import find

    with tempfile.TemporaryDirectory() as scratch:
        try:
            with find(devices, "host").start("", guest, engine, Path(scratch)) as connection:
                return {"version": connection.ask({"do": "facts"}, FACTS_TIMEOUT_S)["engine_version"]}
        except EdgekdError as error:
            return {"problem": str(error)}
