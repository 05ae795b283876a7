"""`edgekd cache list`, `edgekd cache size` and `edgekd cache clear`."""

import time
from typing import Annotated, Any, Literal

import typer

from edgekd import store
from edgekd.cli._common import AsJson, console, plain, print_json, size, table


def command(
    action: Annotated[
        Literal["list", "size", "clear"],
        typer.Argument(help="list: what is kept; size: how much; clear: remove all that no process holds."),
    ] = "list",
    json: AsJson = False,
) -> None:
    """Show or clear what runs share: trained teachers, and what they say. Runs do not need it once they have it."""
    removed = [one for one in store.entries() if store.remove(one.key)] if action == "clear" else []
    there = store.entries()
    found: dict[str, Any] = {
        "schema": 1,
        "folder": str(store.root()),
        "count": len(there),
        "bytes": _bytes(there),
        "budget_bytes": store.budget_bytes(),
    }
    if action == "list":
        found["entries"] = [_plain(one) for one in there]
    if action == "clear":
        found |= {"removed": len(removed), "removed_bytes": _bytes(removed)}
    if json:
        print_json(found)
        return
    if action == "list":
        _show(there)
    if action == "clear":
        print(f"removed {found['removed']}, {size(found['removed_bytes'])}")
    print(f"{found['count']} kept, {size(found['bytes'])} of {size(found['budget_bytes'])}, in {found['folder']}")


def _show(entries: list[store.Entry]) -> None:
    shown = table("what", "kind", "size", "last used", "in use", "key")
    for one in entries:
        used = time.strftime("%F %T", time.localtime(one.used_at_s))
        in_use = "yes" if one.in_use else "no"
        shown.add_row(plain(one.what), plain(one.kind), size(one.size_bytes), used, in_use, one.key[:12])
    console().print(shown)


def _bytes(entries: list[store.Entry]) -> int:
    return sum(one.size_bytes for one in entries)


def _plain(one: store.Entry) -> dict[str, Any]:
    return {
        "key": one.key,
        "kind": one.kind,
        "what": one.what,
        "bytes": one.size_bytes,
        "used_at_s": one.used_at_s,
        "in_use": one.in_use,
    }
