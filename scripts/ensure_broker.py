"""Make sure that this machine can run a RabbitMQ: an installed one, 3.10 or newer, or a Docker engine.

As root on a system with apt-get the package is installed where there is none that could be used.
Elsewhere, without an engine either, one line says what to type; exit code 2.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

#: The generated repository's own way to find a RabbitMQ, where it lies in the template.
TREE = Path(__file__).parent.parent / "<<cookiecutter.service_slug>>"
LOCAL = TREE / "rabbitmq" / "local_server.py"


def trouble() -> str:
    """Why no installed RabbitMQ can be run here, and what to type; empty if one can."""
    sys.dont_write_bytecode = True  # it would be rendered with the template
    spec = importlib.util.spec_from_file_location("ensured_local", LOCAL)
    assert spec is not None and spec.loader is not None
    local = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = local
    spec.loader.exec_module(local)
    try:
        local.Installation()
    except local.NoServer as error:
        return str(error)
    return ""


def has_engine() -> bool:
    """Whether a Docker engine answers."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def install() -> None:
    """Install Debian's package, without starting the broker that it brings as a service."""
    print("[broker] no rabbitmq-server here: installing it with apt-get (about 40 MB)", flush=True)
    # Packages ask invoke-rc.d to start their services, and that looks at the run level.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", "rabbitmq-server"]):
        subprocess.run(["apt-get", "-qq", *step], env=quiet, check=False)


def main() -> int:
    """Returns the exit code."""
    found = trouble()
    # Also where an engine is: most tests run on the package.
    if found and os.geteuid() == 0 and shutil.which("apt-get"):
        install()
        found = trouble()
    if found and not has_engine():
        print(f"{found} (and no Docker engine answers)", file=sys.stderr)
        return 2
    if found:
        print(f"[broker] {found}; going on with containers alone", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
