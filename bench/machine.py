"""What the run was made on and with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from .environment import Environment
from .service import Service, fingerprint

#: Distributions that stand for an environment, where they are called otherwise.
_NAMES = {
    "neon": ("neon-mq-connector",),
    "profiler": ("py-spy",),
    "service": ("pika", "python-dotenv"),
    "templates": ("cookiecutter-pypackage", "cookiecutter_python", "PyScaffold"),
}
#: What prints a program's version.
_TOOLS = {
    "Erlang": (
        "erl",
        "-noshell",
        "-eval",
        "io:put_chars(erlang:system_info(otp_release)), halt().",
    ),
    "Docker": ("docker", "version", "--format", "{{.Server.Version}}"),
}


def describe(service: Service) -> dict[str, Any]:
    """Hardware, system and the template's version; `fingerprint` identifies what is measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "fingerprint": fingerprint(),
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "template": service.versions(),
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": _first("/etc/os-release", "PRETTY_NAME", "=").strip('"') or platform.system(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "tools": tools(),
    }


def occupied(seconds: float) -> float | None:
    """How much of all processors' time goes to whatever else runs here, with what a hypervisor keeps from us.

    Not the load average, which remembers what has run in the minutes before, such as the peers' installation.

    :param seconds: how long is looked
    :returns: percent; None where the kernel doesn't say
    """
    try:
        idle, total = _ticks()
        time.sleep(seconds)
        later_idle, later_total = _ticks()
    except (OSError, ValueError, IndexError):
        return None
    spent = later_total - total
    return round(100 * (1 - (later_idle - idle) / spent), 1) if spent > 0 else None


def _ticks() -> tuple[int, int]:
    """Of all processors since the start of the machine: ticks with nothing to do, and all of them (proc(5))."""
    name, *ticks = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    if name != "cpu":
        raise ValueError(name)
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two
    counts = [int(each) for each in ticks[:8]]
    return counts[3] + counts[4], sum(counts)


def versions(environments: dict[str, Environment]) -> dict[str, str]:
    """Version of every peer that is installed, and of the cookiecutter that renders the template."""
    found = {"cookiecutter": importlib.metadata.version("cookiecutter")}
    for peer, environment in environments.items():
        if environment.ready:
            installed = {name.lower(): ver for name, ver in environment.versions().items()}
            for name in _NAMES.get(peer, (peer,)):
                if name.lower() in installed:
                    found[name] = installed[name.lower()]
    return found


def tools() -> dict[str, str]:
    """Version of each program that takes part; none where it doesn't answer."""
    found: dict[str, str] = {}
    for name, command in _TOOLS.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            found[name] = done.stdout.strip()
    return found


def _first(file: str, key: str, separator: str = ":") -> str:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(separator)[2] for line in lines if line.startswith(key))
    return next(values, "").strip()
