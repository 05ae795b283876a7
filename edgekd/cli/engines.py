"""`edgekd engines` and `edgekd engines install NAME`."""

import tempfile
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
    name: Annotated[str | None, typer.Argument(help="The engine to install.")] = None,
    json: AsJson = False,
) -> None:
    """Show the runtimes that edgekd can execute artifacts on, with those that are installed here."""
    from edgekd import engines
    from edgekd.plugins import known, names

    if action:
        if not name:
            raise ConfigError("install which engine?", hint="`edgekd engines` lists them")
        known(engines, name)
        _install(name)
    found = [_described(one) for one in ((name,) if name else names(engines))]
    if json:
        print_json({"schema": 1, "engines": found})
        return
    shown = table("engine", "runtime", "executes", "to install it")
    for one in found:
        state = one["version"] or one["problem"] or "not installed"
        shown.add_row(
            *map(plain, (one["name"], state, " ".join(one["suffixes"]), "" if one["version"] else one["install"]))
        )
    console().print(shown)


def _install(name: str) -> None:
    from edgekd import engines, environments

    if not environments.packages_of(engines.path(name)):
        raise ConfigError(f"{name} has no environment of its own", hint=engines.how_to_install(name))
    with progress_bars():
        environments.install(engines.path(name))


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
