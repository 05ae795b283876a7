"""Every shipped recipe is valid and names plugins whose options it gets right."""

import pytest

from edgekd import datasets, losses, students, tasks, teachers
from edgekd.agree import heads_of, losses_of
from edgekd.plan import candidates
from edgekd.plugins import find, options
from edgekd.shipped import load_recipe, recipe_names
from tests.subjects import subject


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert all(find(tasks, head.task).metric for head in heads_of(recipe).values())
    for family, choice in ((datasets, recipe.dataset), (teachers, recipe.teacher), (students, recipe.student)):
        plugin = find(family, choice.name)
        options(plugin.Options, choice.options, name)
    for point in candidates(recipe.student, subject()):
        options(find(students, recipe.student.name).Options, point, name)
    for loss in losses_of(recipe):
        options(find(losses, loss.name).Options, loss.options, name)
    assert {loss.name for loss in recipe.losses} & {"labels"}, "the twin needs a loss of its own"


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_says_what_it_takes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.minutes > 0
    assert recipe.memory_bytes > 0
    assert find(datasets, recipe.dataset.name).licence
    assert find(losses, "labels").needs_teacher is False


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_has_a_small_scale_that_is_another_job(name: str) -> None:
    small = load_recipe(name, "small")
    assert small.name == f"{name}-small" and not small.scales
    assert small.student.training.epochs < load_recipe(name).student.training.epochs
    point = candidates(small.student, subject())[0]
    options(find(students, small.student.name).Options, point, name)
    options(find(datasets, small.dataset.name).Options, small.dataset.options, name)
