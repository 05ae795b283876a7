"""Cores that QEMU imitates, and the machine around one that a guest is told it runs on."""

import difflib
import subprocess
from pathlib import Path
from typing import Final, Literal

from edgekd import shipped
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.specs import Spec


class Cache(Spec, frozen=True, kw_only=True):
    """A cache of data, of lines of 64 bytes, the least recently used of a set replaced first."""

    size_bytes: int
    ways: int


class Core(Spec, frozen=True, kw_only=True):
    """A core as it identifies itself, with the caches of the chip that it is best known from."""

    name: str
    """As Arm and QEMU write it."""
    architecture: Literal["aarch64", "arm"] = "aarch64"
    part: int
    """Of the register MIDR, as are the next two."""
    variant: int
    revision: int
    features: str
    """As Linux lists what QEMU gives it."""
    clock_mhz: float
    caches: tuple[Cache, ...]
    """Nearest first."""


class Machine(Spec, frozen=True, kw_only=True):
    """What a guest is told of the machine that it runs on."""

    core: Core
    count: int
    clock_mhz: float
    caches: tuple[Cache, ...]


_ARMV7: Final = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae"
_ARMV8: Final = "fp asimd aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2: Final = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_KIB: Final = 1024

CORES: Final = {
    core.name: core
    for core in (  # sizes: the chips' documentation; ways, which the core fixes: Arm's Technical Reference Manuals
        Core(  # Raspberry Pi Zero 2, BCM2710A1
            name="cortex-a53",
            part=0xD03,
            variant=0,
            revision=4,
            features=_ARMV8,
            clock_mhz=1000,
            caches=(Cache(size_bytes=32 * _KIB, ways=4), Cache(size_bytes=512 * _KIB, ways=16)),
        ),
        Core(  # NXP i.MX 8X
            name="cortex-a35",
            part=0xD04,
            variant=1,
            revision=0,
            features=_ARMV8,
            clock_mhz=1200,
            caches=(Cache(size_bytes=32 * _KIB, ways=4), Cache(size_bytes=512 * _KIB, ways=8)),
        ),
        Core(  # Jetson Nano, Tegra X1
            name="cortex-a57",
            part=0xD07,
            variant=1,
            revision=0,
            features=_ARMV8,
            clock_mhz=1430,
            caches=(Cache(size_bytes=32 * _KIB, ways=2), Cache(size_bytes=2048 * _KIB, ways=16)),
        ),
        Core(  # Raspberry Pi 4, BCM2711
            name="cortex-a72",
            part=0xD08,
            variant=0,
            revision=3,
            features=_ARMV8,
            clock_mhz=1800,
            caches=(Cache(size_bytes=32 * _KIB, ways=2), Cache(size_bytes=1024 * _KIB, ways=16)),
        ),
        Core(  # Raspberry Pi 5, BCM2712
            name="cortex-a76",
            part=0xD0B,
            variant=4,
            revision=1,
            features=_ARMV8_2,
            clock_mhz=2400,
            caches=(
                Cache(size_bytes=64 * _KIB, ways=4),
                Cache(size_bytes=512 * _KIB, ways=8),
                Cache(size_bytes=2048 * _KIB, ways=16),
            ),
        ),
        Core(  # AWS Graviton 2
            name="neoverse-n1",
            part=0xD0C,
            variant=4,
            revision=1,
            features=_ARMV8_2,
            clock_mhz=2500,
            caches=(Cache(size_bytes=64 * _KIB, ways=4), Cache(size_bytes=1024 * _KIB, ways=8)),
        ),
        Core(  # Raspberry Pi 2, BCM2836
            name="cortex-a7",
            architecture="arm",
            part=0xC07,
            variant=0,
            revision=5,
            features=_ARMV7,
            clock_mhz=900,
            caches=(Cache(size_bytes=32 * _KIB, ways=4), Cache(size_bytes=512 * _KIB, ways=8)),
        ),
        Core(  # Jetson TK1, Tegra K1
            name="cortex-a15",
            architecture="arm",
            part=0xC0F,
            variant=2,
            revision=1,
            features=_ARMV7,
            clock_mhz=2300,
            caches=(Cache(size_bytes=32 * _KIB, ways=2), Cache(size_bytes=2048 * _KIB, ways=16)),
        ),
    )
}
_USUAL_COUNT: Final = 4
_LEAST_WAYS: Final = 16
"""Of caches that only a target names."""


def machine_at(address: str) -> Machine:
    """The machine that an address names: a core, "cortex-a72", or a shipped target with its cores' number, clock and
    caches, "raspberry-pi-4".

    Raises:
        ConfigError: neither, a core that is no real one, or a target that QEMU imitates no core of.
    """
    if address.partition(",")[0] == "max":
        raise ConfigError(
            "the core 'max' is no real one, and computes int8 wrongly in QEMU 7.2", hint="name one: qemu:cortex-a72"
        )
    if address in CORES:
        core = CORES[address]
        return Machine(core=core, count=_USUAL_COUNT, clock_mhz=core.clock_mhz, caches=core.caches)
    if address in shipped.target_names():
        return _machine_of(address)
    close = difflib.get_close_matches(address, (*CORES, *shipped.target_names()), n=1)
    hint = f"did you mean 'qemu:{close[0]}'?" if close else f"cores: {', '.join(CORES)}; or name a target"
    raise ConfigError(f"no core named {address!r}" if address else "emulate which core?", hint=hint)


def _machine_of(target_name: str) -> Machine:
    target = shipped.load_target(target_name)
    if target.emulator not in CORES:
        raise ConfigError(f"QEMU imitates no core of {target_name}", hint=f"cores: {', '.join(CORES)}")
    core, cluster = CORES[target.emulator], target.device.clusters[0]
    sizes = list(filter(None, [cluster.l1d_bytes, cluster.l2_bytes, target.device.l3_bytes]))
    ways = [cache.ways for cache in core.caches] + [_LEAST_WAYS] * len(sizes)
    return Machine(
        core=core,
        count=cluster.count,
        clock_mhz=cluster.clock_mhz,
        caches=tuple(Cache(size_bytes=size, ways=way) for size, way in zip(sizes, ways, strict=False)),
    )


def check_known(emulator: Path, core: Core) -> None:
    """Raise PluginUnavailable where the QEMU of this machine does not imitate a core."""
    listed = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False).stdout.split()
    if core.name not in listed:
        known = [name for name in CORES if name in listed]
        raise PluginUnavailable(f"the QEMU here does not know {core.name}", hint=f"it knows {', '.join(known)}")
