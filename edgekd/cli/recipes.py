"""`edgekd recipes [NAME]`."""

from typing import Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, print_json, table
from edgekd.shipped import load_recipe, recipe_names
from edgekd.specs import Recipe


def command(
    name: Annotated[str | None, typer.Argument(help="Name of a shipped recipe, or path of a .toml file.")] = None,
    json: AsJson = False,
) -> None:
    """Show the recipes that edgekd ships, with what each takes on two cores."""
    wanted = [load_recipe(name)] if name else [load_recipe(one) for one in recipe_names()]
    plain = [_plain(recipe) for recipe in wanted]
    if json:
        print_json({"schema": 1, "recipes": plain})
        return
    from edgekd.cli._tables import size

    listed = table("recipe", "what", "teacher", "student", "minutes", "memory", "data licence", "needs")
    for one in plain:
        listed.add_row(
            one["name"],
            one["title"],
            one["teacher"],
            one["student"],
            f"{one['minutes']:g}",
            size(one["memory_bytes"]),
            one["licence"],
            one["needs"],
        )
    console().print(listed)


def _plain(recipe: Recipe) -> dict[str, Any]:
    from edgekd import datasets
    from edgekd.plugins import find

    dataset = find(datasets, recipe.dataset.name)
    return {
        "name": recipe.name,
        "title": recipe.title,
        "task": recipe.task,
        "dataset": recipe.dataset.name,
        "teacher": recipe.teacher.name,
        "student": recipe.student.name,
        "licence": dataset.licence,
        "needs": dataset.needs,
        "minutes": recipe.minutes,
        "memory_bytes": recipe.memory_bytes,
    }
