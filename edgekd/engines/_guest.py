"""Runs on the device: loads an engine file and a model, executes and times it, and answers in JSON lines.

usage: python _guest.py ENGINE.py

Needs Python 3.8, numpy and the engine's runtime. A request is {"do": VERB, ...}; the answer is {"ok": true, ...} or
{"ok": false, "error": TEXT}. It ends with its standard input.
"""

import hashlib
import importlib.util
import json
import os
import platform
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # onnxruntime.py lies there

import numpy as np  # noqa: E402 - after the path is mended


class Guest:
    """Answers requests about one model."""

    def __init__(self, engine_file):
        spec = importlib.util.spec_from_file_location("edgekd_engine", engine_file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.engine = module.PLUGIN
        self.session = None

    def facts(self, request):
        """The machine and the runtime."""
        return {"engine_version": self.engine.version(), "machine": machine()}

    def load(self, request):
        """Load a model; pins the process to as many cores as it has threads."""
        cores = pin(request["threads"])
        start = time.perf_counter_ns()
        self.session = self.engine.load(request["model"], request["threads"])
        return {
            "load_ms": since_ms(start),
            "inputs": list(self.session.inputs),
            "outputs": list(self.session.outputs),
            "cores": cores,
        }

    def run(self, request):
        """Execute every example of a .npz of inputs, write a .npz of outputs, both in the model's order."""
        inputs = arrays(request["inputs"])
        collected = []
        for index in range(len(inputs[0])):
            self.session.feed([array[index : index + 1] for array in inputs])
            self.session.invoke()
            collected.append(self.session.fetch())
        outputs = {str(i): np.concatenate(parts) for i, parts in enumerate(zip(*collected))}  # noqa: B905 - Python 3.8
        np.savez(request["outputs"], **outputs)
        return {"outputs_sha256": digest(outputs.values())}

    def time(self, request):
        """Time single inferences, a fresh input each, after a warm-up by count and by time."""
        inputs = arrays(request["inputs"])
        feeds = [[array[index : index + 1] for array in inputs] for index in range(len(inputs[0]))]
        first = self._one(feeds[0])
        self._many(feeds, request["warmup_count"], request["warmup_s"], request["warmup_s"] + 60)
        before = conditions()
        samples = self._many(feeds, request["min_count"], request["min_s"], request["max_s"])
        self.session.feed(feeds[0])
        self.session.invoke()
        return {
            "first_ms": first,
            "samples_ms": samples,
            "before": before,
            "after": conditions(),
            "outputs_sha256": digest(self.session.fetch()),
        }

    def memory(self, request):
        """Peak resident memory of loading and executing, above what the runtime took to import."""
        inputs = arrays(request["inputs"])
        reset_peak()
        baseline = resident_bytes()
        self.load(request)
        for _ in range(5):
            self._one([array[:1] for array in inputs])
        return {"peak_rss_bytes": max(0, peak_resident_bytes() - baseline)}

    def _one(self, feed):
        self.session.feed(feed)
        start = time.perf_counter_ns()
        self.session.invoke()
        return since_ms(start)

    def _many(self, feeds, count, seconds, limit_s):
        samples = []
        start = time.monotonic()
        while True:
            passed = time.monotonic() - start
            if (len(samples) >= count and passed >= seconds) or passed >= limit_s:
                return samples
            samples.append(self._one(feeds[len(samples) % len(feeds)]))


def since_ms(start_ns):
    """Milliseconds since a perf_counter_ns."""
    return (time.perf_counter_ns() - start_ns) / 1e6


def arrays(path):
    """Arrays of a .npz, named "0", "1", ... in the model's order."""
    with np.load(path, allow_pickle=False) as opened:
        return [opened[str(index)] for index in range(len(opened.files))]


def digest(outputs):
    """SHA-256 of arrays' bytes."""
    sha = hashlib.sha256()
    for array in outputs:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def pin(threads):
    """Keep this process on its last `threads` cores, where the system can; the cores it is on."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


def read(path):
    """First line of a system file, or ""."""
    try:
        with open(path) as opened:
            return opened.readline().strip()
    except OSError:
        return ""


def field(path, name):
    """What stands after `name:` in a system file, or ""."""
    try:
        with open(path) as opened:
            lines = [line.partition(":") for line in opened]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def machine():
    """What identifies this machine."""
    return {
        "system": "%s %s" % (platform.system(), platform.release()),
        "cpu": field("/proc/cpuinfo", "model name")
        or field("/proc/cpuinfo", "Model")
        or platform.processor()
        or "unknown",
        "cores": os.cpu_count() or 1,
        "memory_bytes": int((field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) * 1024,
        "python": platform.python_version(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": float(field("/proc/cpuinfo", "cpu MHz") or 0),
    }


def conditions():
    """What can disturb a timing: temperatures in degrees, clocks in MHz, and time stolen by a hypervisor in ticks."""
    zones = "/sys/class/thermal"
    names = sorted(os.listdir(zones)) if os.path.isdir(zones) else []
    readings = [read("%s/%s/temp" % (zones, name)) for name in names]
    ticks = read("/proc/stat").split()
    return {
        "temperatures_c": [int(reading) / 1000 for reading in readings if reading.lstrip("-").isdigit()],
        "clock_mhz": float(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq") or 0) / 1000,
        "stolen_ticks": int(ticks[8]) if len(ticks) > 8 else 0,
        "at_s": time.monotonic(),
    }


def reset_peak():
    """Let the kernel count the peak anew, where it can."""
    try:
        with open("/proc/self/clear_refs", "w") as opened:
            opened.write("5")
    except OSError:
        pass


def resident_bytes():
    """Resident memory now."""
    value = field("/proc/self/status", "VmRSS")
    return int(value.split()[0]) * 1024 if value else peak_resident_bytes()


def peak_resident_bytes():
    """Most resident memory since the start, or since `reset_peak`."""
    value = field("/proc/self/status", "VmHWM")
    if value:
        return int(value.split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def serve(engine_file):
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not look like an answer
    try:
        guest, broken = Guest(engine_file), None
    except Exception as error:  # noqa: BLE001 - the edge of the process: the asking side must hear of it
        guest, broken = None, error
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if broken:
                raise broken
            answer = dict(getattr(guest, request["do"])(request), ok=True)
        except Exception as error:  # noqa: BLE001 - as above
            answer = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
