"""`edgekd recipes [NAME]`."""

from typing import Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, size, table
from edgekd.shipped import load_recipe, recipe_names
from edgekd.specs import Recipe


def command(
    name: Annotated[str | None, typer.Argument(help="Name of a shipped recipe, or path of a .toml file.")] = None,
    json: AsJson = False,
) -> None:
    """Show the recipes that edgekd ships, with what each takes on two cores."""
    wanted = [load_recipe(name)] if name else [load_recipe(one) for one in recipe_names()]
    found = [_plain(recipe) for recipe in wanted]
    if json:
        print_json({"schema": 1, "recipes": found})
        return
    listed = table("recipe", "what", "teacher", "student", "minutes", "memory", "data licence", "needs")
    for one in found:
        listed.add_row(
            plain(one["name"]),
            plain(one["title"]),
            plain(one["teacher"]),
            plain(one["student"]),
            f"{one['minutes']:g}",
            size(one["memory_bytes"]),
            plain(one["licence"]),
            plain(one["needs"]),
        )
    console().print(listed)


def _plain(recipe: Recipe) -> dict[str, Any]:
    from edgekd import datasets
    from edgekd.plugins import find

    ours = ":" not in recipe.dataset.name  # a user's own is not executed to be shown
    dataset = find(datasets, recipe.dataset.name) if ours else None
    return {
        "name": recipe.name,
        "title": recipe.title,
        "task": recipe.task or ", ".join(dict.fromkeys(head.task for head in recipe.heads.values())),
        "dataset": recipe.dataset.name,
        "teacher": recipe.teacher.name,
        "student": recipe.student.name,
        "licence": dataset.licence if dataset else "yours",
        "needs": dataset.needs if dataset else "",
        "scales": list(recipe.scales),
        "minutes": recipe.minutes,
        "memory_bytes": recipe.memory_bytes,
    }
