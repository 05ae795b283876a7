"""What a guest reads about its machine in /proc and /sys: runtimes choose kernels by it, and crash on that of a PC."""

from collections.abc import Iterator
from pathlib import Path

from edgekd.emulation.cores import Machine

_SYSTEM = "sys/devices/system/cpu"
_ARM = 0x41
_LINE_BYTES = 64


def describe(machine: Machine, root: Path) -> None:
    """Write /proc/cpuinfo and /sys/devices/system/cpu of a machine below a root."""
    for name, text in files(machine).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")


def files(machine: Machine) -> dict[str, str]:
    """Their contents by name, after Linux' Documentation/ABI/testing/sysfs-devices-system-cpu."""
    everyone = _listed(range(machine.count))
    written = {
        "proc/cpuinfo": _cpuinfo(machine),
        f"{_SYSTEM}/kernel_max": "255",
        **{f"{_SYSTEM}/{name}": everyone for name in ("possible", "present", "online")},
    }
    for index in range(machine.count):
        written |= {f"{_SYSTEM}/cpu{index}/{name}": text for name, text in _processor(machine, index)}
    return written


def _cpuinfo(machine: Machine) -> str:
    core = machine.core
    lines = (
        "BogoMIPS\t: 108.00",
        f"Features\t: {core.features}",
        f"CPU implementer\t: 0x{_ARM:x}",
        f"CPU architecture: {8 if core.architecture == 'aarch64' else 7}",
        f"CPU variant\t: 0x{core.variant:x}",
        f"CPU part\t: 0x{core.part:x}",
        f"CPU revision\t: {core.revision}",
    )
    each = ("\n".join((f"processor\t: {index}", *lines)) for index in range(machine.count))
    return "\n\n".join((*each, f"Model\t\t: {core.name}, emulated by QEMU"))


def _processor(machine: Machine, index: int) -> Iterator[tuple[str, str]]:
    core, everyone = machine.core, range(machine.count)
    clock_khz = f"{machine.clock_mhz * 1000:.0f}"
    for name in ("cpuinfo_max_freq", "cpuinfo_min_freq", "scaling_cur_freq"):
        yield f"cpufreq/{name}", clock_khz
    yield "cpufreq/scaling_governor", "emulated"  # where it is missing, that of the PC would be read
    yield "regs/identification/midr_el1", f"0x{_midr(core.variant, core.part, core.revision):016x}"
    yield "topology/core_id", str(index)
    for name in ("physical_package_id", "cluster_id"):
        yield f"topology/{name}", "0"
    for names, them in (
        (("core_siblings", "package_cpus", "cluster_cpus"), everyone),
        (("thread_siblings", "core_cpus"), range(index, index + 1)),
    ):
        for name in names:
            yield f"topology/{name}", f"{sum(1 << one for one in them):x}"
            yield f"topology/{name}_list", _listed(them)
    nearest = machine.caches[0]
    levels = [("Instruction", 1, nearest), ("Data", 1, nearest)]
    levels += [("Unified", level, cache) for level, cache in enumerate(machine.caches[1:], 2)]
    for place, (kind, level, cache) in enumerate(levels):
        yield f"cache/index{place}/type", kind
        yield f"cache/index{place}/level", str(level)
        yield f"cache/index{place}/size", f"{cache.size_bytes // 1024}K"
        yield f"cache/index{place}/ways_of_associativity", str(cache.ways)
        yield f"cache/index{place}/number_of_sets", str(cache.size_bytes // _LINE_BYTES // cache.ways)
        yield f"cache/index{place}/coherency_line_size", str(_LINE_BYTES)
        yield f"cache/index{place}/shared_cpu_list", _listed(everyone if level > 1 else range(index, index + 1))


def _midr(variant: int, part: int, revision: int) -> int:
    """The main identification register: Arm Architecture Reference Manual, DDI 0487, MIDR_EL1."""
    return _ARM << 24 | variant << 20 | 0xF << 16 | part << 4 | revision


def _listed(cores: range) -> str:
    return f"{cores[0]}-{cores[-1]}" if len(cores) > 1 else str(cores[0])
