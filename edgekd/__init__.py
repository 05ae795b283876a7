"""Distil a teacher into a student that fits a device, export it, and prove that it fits.

    import edgekd

    result = edgekd.run("digits", "raspberry-pi-4")
    print(result.ok, result.artifact)

Names load when they are first used, so `import edgekd` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.api import Export, Result, export_model, own_recipe, plan_all, resume, run, run_all, verify_models
    from edgekd.errors import EdgekdError
    from edgekd.shipped import load_recipe, load_target
    from edgekd.specs import Budget, Preprocessing, Recipe, Target, Verdict, Views

__all__ = [
    "Budget",
    "EdgekdError",
    "Export",
    "Preprocessing",
    "Recipe",
    "Result",
    "Target",
    "Verdict",
    "Views",
    "export_model",
    "load_recipe",
    "load_target",
    "own_recipe",
    "plan_all",
    "resume",
    "run",
    "run_all",
    "verify_models",
]

_HOMES = {
    "edgekd.api": (
        "Export",
        "Result",
        "export_model",
        "own_recipe",
        "plan_all",
        "resume",
        "run",
        "run_all",
        "verify_models",
    ),
    "edgekd.errors": ("EdgekdError",),
    "edgekd.shipped": ("load_recipe", "load_target"),
    "edgekd.specs": ("Budget", "Preprocessing", "Recipe", "Target", "Verdict", "Views"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
