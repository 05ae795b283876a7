"""Every file in targets/ is valid, names plugins that exist, and gives a source for each fact."""

import pytest

from edgekd import converters, cost, engines
from edgekd.agree import foresee
from edgekd.plugins import find, names
from edgekd.shipped import load_recipe, load_target, target_names
from edgekd.specs import Device

WANTED = {
    "android-high",
    "android-low",
    "corstone-300",
    "intel-n100",
    "iphone-12",
    "jetson-nano",
    "jetson-orin-nano",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-zero-2",
    "stm32h7",
}


def test_the_promised_targets_ship() -> None:
    assert set(target_names()) >= WANTED


@pytest.mark.parametrize("name", target_names())
def test_target_is_valid(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert {converters.split(export)[0] for export in target.exports} <= set(names(converters))
    assert set(target.engines) <= set(names(engines))
    assert target.cost_profile in names(cost)
    assert 0 < target.threads <= sum(cluster.count for cluster in target.device.clusters)
    foresee(load_recipe("digits"), target)


@pytest.mark.parametrize("name", target_names())
def test_every_fact_has_a_source(name: str) -> None:
    device = load_target(name).device
    facts = set(Device.__struct_fields__) - {"sources"}
    given = {fact for fact in facts if getattr(device, fact)}
    assert given <= set(device.sources), given - set(device.sources)


@pytest.mark.parametrize("name", target_names())
def test_the_cost_model_knows_the_cores(name: str) -> None:
    device = load_target(name).device
    assert device.clusters[0].core in find(cost, load_target(name).cost_profile).cores()
