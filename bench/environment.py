"""An environment of its own for every peer, made once and kept outside the tree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TEMPLATE = HERE.parent
#: The environment of the generated service, and the one with what its metrics need.
SERVICE, WITH_METRICS = "service", "service-metrics"
#: Its own lists, with hashes.
_GENERATED = {SERVICE: "requirements.txt", WITH_METRICS: "requirements-observability.txt"}
#: Seconds that an installation may take.
_INSTALL = 300


class EnvironmentFailed(Exception):
    """An environment could not be made; with pip's last line."""


def cache() -> Path:
    """Where everything is kept that is not worth making anew."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "neon-mq-template" / "bench"


class Environment:
    """The Python packages of one peer.

    :param peer: `SERVICE`, `WITH_METRICS`, or the ``<peer>`` of a ``requirements-<peer>.txt``
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.requirements = HERE / f"requirements-{peer}.txt"
        if peer in _GENERATED:
            self.requirements = TEMPLATE / "<<cookiecutter.service_slug>>" / _GENERATED[peer]
        text = self.requirements.read_bytes() + sys.version.encode()
        name = f"{peer}-{sys.version_info[0]}.{sys.version_info[1]}"
        self._folder = cache() / "environments" / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"
        #: What its programs are run with.
        self.program = self._folder / "bin" / "python"
        self._mark = self._folder / ".complete"

    @property
    def ready(self) -> bool:
        """Whether it is there, whole, and its Python still is."""
        return self._mark.exists() and self.program.exists()

    def make(self) -> None:
        """Make it where it is missing.

        :raises EnvironmentFailed: pip can't install the peer, for instance on this Python
        """
        if self.ready:
            return
        make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(self._folder)]
        pip = [sys.executable, "-m", "pip", "--python", str(self.program), "install", "--quiet"]
        pip += ["--disable-pip-version-check"]
        uv = Path(sys.executable).with_name("uv")
        if uv.exists():  # in a third of the time, and as large: with bytecode
            pip = [str(uv), "pip", "install", "--quiet", "--python", str(self.program)]
            pip += ["--compile-bytecode"]
        for command in (make, [*pip, "--requirement", str(self.requirements)]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise EnvironmentFailed(f"{self.peer}: {last}")
        self._mark.touch()

    @property
    def site(self) -> Path:
        """Folder of the installed packages."""
        return next(self._folder.glob("lib/python*/site-packages"))

    def size(self) -> float:
        """Megabytes (2^20) of installed packages, bytecode included."""
        return sum(f.stat().st_size for f in self.site.rglob("*") if f.is_file()) / 2**20

    def versions(self) -> dict[str, str]:
        """Version of every installed package."""
        code = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
        )
        found = subprocess.run(
            [self.program, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        return dict(json.loads(found.stdout))
