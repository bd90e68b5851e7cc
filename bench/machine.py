"""What the run was made on and with."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from .environment import Environment
from .service import Service, fingerprint

#: Distribution that stands for a peer, where it is called otherwise.
_NAMES = {"neon": "neon-mq-connector", "service": "python-dotenv"}


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
        "load": round(os.getloadavg()[0], 1),
    }


def versions(environments: dict[str, Environment]) -> dict[str, str]:
    """Version of every peer that is installed."""
    found: dict[str, str] = {}
    for peer, environment in environments.items():
        if environment.ready:
            installed = {name.lower(): ver for name, ver in environment.versions().items()}
            name = _NAMES.get(peer, peer)
            if name in installed:
                found[name] = installed[name]
    return found


def _first(file: str, key: str, separator: str = ":") -> str:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(separator)[2] for line in lines if line.startswith(key))
    return next(values, "").strip()
