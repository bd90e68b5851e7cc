"""Make a virtual environment and install a group of pyproject.toml into it: venv.py FOLDER GROUP.

Standard library only, because it runs before anything is installed. Exits with 2 and one line that
says what to type where this machine can't make an environment.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

#: The first pip with groups (PEP 735) is 25.1; a fresh environment often brings an older one.
PIP = "pip==26.3"


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def maker(folder: Path) -> list[str] | None:
    """The command that makes an environment on this machine, if there is one.

    Debian leaves ensurepip, which venv needs, out of its python3 package.
    """
    importlib.invalidate_caches()
    if importlib.util.find_spec("ensurepip"):
        return [sys.executable, "-m", "venv", "--clear", str(folder)]
    if importlib.util.find_spec("virtualenv"):
        return [sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(folder)]
    if uv := shutil.which("uv"):
        return [uv, "venv", "-q", "--clear", "--seed", "--python", sys.executable, str(folder)]
    return None


def make(folder: Path) -> None:
    """Make the environment, installing what Debian lacks for it where that is allowed."""
    command = maker(folder)
    if not command and os.geteuid() == 0 and shutil.which("apt-get"):
        say("this Python can't make environments: installing python3-venv with apt-get")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update"], ["install", "-y", "--no-install-recommends", "python3-venv"]):
            subprocess.run(["apt-get", "-qq", *step], env=quiet, check=False)
        command = maker(folder)
    if not command:
        print(f"{sys.executable} can't make environments: sudo apt-get install python3-venv")
        sys.exit(2)
    say(f"making {folder} with Python {sys.version.split()[0]}")
    subprocess.run(command, check=True)


def works(python: Path) -> bool:
    """False as well for an environment whose Python has gone, or whose making was interrupted."""
    if not python.exists():
        return False
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def main(folder: Path, group: str) -> None:
    if sys.version_info < (3, 10):  # noqa: UP036  (whatever `python3` is runs this)
        print(f"Python {sys.version.split()[0]} is too old, 3.10 is needed: make PYTHON=python3.10")
        sys.exit(2)
    began = time.monotonic()
    python = folder / "bin" / "python"
    if not works(python):
        make(folder)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    say(f"installing the group {group!r} of pyproject.toml")
    for what in ([PIP], ["--group", group]):
        if subprocess.run([*pip, *what]).returncode:
            print(f"pip could not install {' '.join(what)}: see above; then make again")
            sys.exit(2)
    (folder / f".{group}").touch()
    say(f"ready after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
