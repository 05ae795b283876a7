"""Arm's Vela for Ethos-U: it schedules a .tflite on the neural processor, and reckons cycles by its own model of it.

Its model knows the processor and the memory system of a configuration (config_files/Arm/vela.ini in the package), and
nothing of the Cortex-M beside it, which executes what the neural processor does not.
"""

import csv
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from edgekd.compilers import Compilation, Compiler
from edgekd.errors import ConvertError

ENVIRONMENT = ("ethos-u-vela==5.2.0", "flatbuffers==25.12.19", "numpy==2.3.5")

TIMEOUT_S: Final = 600.0
KIB: Final = 1024


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A processor, and the memory around it, by their names in vela.ini."""

    accelerator: Literal[
        "ethos-u55-32",
        "ethos-u55-64",
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-256",
        "ethos-u65-512",
        "ethos-u85-128",
        "ethos-u85-256",
        "ethos-u85-512",
        "ethos-u85-1024",
        "ethos-u85-2048",
    ]
    system: str = "Ethos_U55_High_End_Embedded"
    memory: str = "Shared_Sram"


class _Vela:
    title = "Arm Vela"
    suffixes: tuple[str, ...] = (".tflite",)
    Options = Options

    def compile(self, python: Path, model: Path, options: Any, out: Path) -> Compilation:
        chosen = ("--accelerator-config", options.accelerator, "--config", "Arm/vela.ini")
        around = ("--system-config", options.system, "--memory-mode", options.memory)
        said = ("--verbose-performance", "--output-dir", str(out))
        _call([str(python), "-I", "-m", "ethosu.vela", str(model), *chosen, *around, *said])
        compiled = out / f"{model.stem}_vela.tflite"
        _keep_labels(model, compiled)
        (summary,) = _rows(out / f"{model.stem}_summary_{options.system}.csv")
        layers = _rows(out / f"{model.stem}_per-layer.csv")
        on_cpu = [one for one in layers if one["Target"] == "CPU"]
        clock_mhz = float(summary["core_clock"]) / 1e6
        return Compilation(
            file=compiled,
            version=ENVIRONMENT[0].partition("==")[2],
            processor=f"{options.accelerator} at {clock_mhz:g} MHz, {options.system}, {options.memory}",
            npu_operators=len(layers) - len(on_cpu),
            cpu_operators=tuple(f"{one['Original Operator']} of {one['Name']}" for one in on_cpu),
            macs=int(summary["nn_macs"]),
            cycles=int(float(summary["cycles_total"])),
            latency_ms=float(summary["inference_time"]) * 1e3,
            sram_bytes=round(float(summary["sram_memory_used"]) * KIB),
            flash_bytes=round(float(summary["off_chip_flash_memory_used"]) * KIB),
        )


def _call(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ConvertError(f"Vela took longer than {TIMEOUT_S:.0f} s") from error
    if ended.returncode:
        lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise ConvertError(f"Vela gave up: {(lines or ['it said nothing'])[-1][:300]}")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _keep_labels(model: Path, compiled: Path) -> None:
    """Vela copies the metadata, and forgets the .zip behind the model that they point into."""
    if not zipfile.is_zipfile(model):
        return
    with zipfile.ZipFile(model) as packed, zipfile.ZipFile(compiled, "a") as added:
        for one in packed.infolist():
            added.writestr(one, packed.read(one))


PLUGIN: Final[Compiler] = _Vela()
