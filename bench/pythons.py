"""Pythons of other versions, to run the service on: of the images that it would run in, or the machine's."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .environment import TEMPLATE, EnvironmentFailed, cache

#: Seconds that an image may take to be made or unpacked, and a Python to answer.
_MAKE, _ANSWER = 400, 60
#: Of an image, what Python needs.
_NEEDED = ("lib", "lib64", "usr/bin", "usr/lib", "usr/lib64", "usr/local", "etc/ssl")
_ASK = (
    "import sys, sysconfig, json; print(json.dumps({'version': sys.version.split()[0],"
    "'threads': bool(sysconfig.get_config_var('Py_GIL_DISABLED')),"
    "'tuned': '--enable-optimizations' in (sysconfig.get_config_var('CONFIG_ARGS') or '')}))"
)


@dataclass(frozen=True)
class Python:
    """One that runs here."""

    #: What starts it, before its arguments, and with which environment.
    command: tuple[str, ...]
    env: Mapping[str, str]
    #: Its version, and where it comes from.
    text: str


@functools.cache
def find(version: str) -> Python:
    """A Python of that version: of its image where there is an engine, else one of the machine's.

    :param version: such as ``3.13``, or ``3.13t`` for one whose threads are free
    :raises EnvironmentFailed: there is none
    """
    image = f"python:{version}-slim"
    root = None if version.endswith("t") else _unpacked(image)
    if root:
        for home in (root / "usr" / "local", root / "usr"):
            if (home / "bin" / f"python{version}").exists():
                return _described(version, _of_root(root, home, version), f"of the image {image}")
    for program in _installed(version):
        try:
            return _described(version, Python((str(program),), {}, ""), "found on the machine")
        except EnvironmentFailed:
            continue
    missing = "" if version.endswith("t") else f", nor the image {image}"
    raise EnvironmentFailed(f"there is no Python {version} here{missing}")


def own() -> Python:
    """The one that everything else here runs on."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    plain = Python((sys.executable,), {}, "")
    return _described(version, plain, "which everything else on this page runs on")


def _described(version: str, python: Python, origin: str) -> Python:
    env = {**os.environ, **python.env}
    env.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            [*python.command, "-c", _ASK],
            env=env,
            capture_output=True,
            text=True,
            timeout=_ANSWER,
            check=True,
        )
        said = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise EnvironmentFailed(f"Python {version}, {origin}, doesn't run: {error}") from None
    if said["threads"] != version.endswith("t"):
        raise EnvironmentFailed(f"Python {version}, {origin}, isn't what its name says")
    slow = (
        "" if said["tuned"] or "image" in origin else ", built without profile-guided optimisation"
    )
    return Python(python.command, python.env, f"{said['version']}, {origin}{slow}")


def _installed(version: str) -> Iterator[Path]:
    name = f"python{version}"
    if found := shutil.which(name):
        yield Path(found)
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(home.glob(f"versions/*/bin/{name}"))


@functools.cache
def _engine() -> bool:
    """Whether there is one that answers; without it an image would be built for nothing."""
    return bool(shutil.which("docker")) and _quietly("docker", "info") is not None


def _unpacked(image: str) -> Path | None:
    """Where an image's files are, unpacked once; None without an engine or without that image."""
    if not _engine():
        return None
    inspect = ("docker", "image", "inspect", "--format", "{{.Id}}", image)
    done = _quietly(*inspect)
    if done is None and (TEMPLATE / ".ci" / "images").exists():
        _quietly("bash", str(TEMPLATE / ".ci" / "images"), image)
        done = _quietly(*inspect)
    if done is None:
        return None
    name = done.strip().rpartition(":")[2][:12]
    root = cache() / "pythons" / name
    if root.exists():
        return root
    made = root.with_suffix(".new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    if not (container := _quietly("docker", "create", image)):
        return None
    try:
        # Which of them are there differs from image to image, and tar says so; what counts is in them.
        unpack = f"docker export {container.strip()} | tar -x -C '{made}' {' '.join(_NEEDED)}"
        subprocess.run(["sh", "-c", unpack], capture_output=True, timeout=_MAKE)
    finally:
        _quietly("docker", "rm", container.strip())
    made.rename(root)
    return root


def _quietly(*command: str) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE)
    except (OSError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout


def _of_root(root: Path, home: Path, version: str) -> Python:
    """Started by its own loader, for the machine's C library may be older."""
    # Not the link in lib64, which may lead out of the folder, to the machine's own.
    loaders = [*root.glob("usr/lib/*/ld-linux*.so.*"), *root.glob("lib*/ld-linux*.so.*")]
    if not loaders:
        raise EnvironmentFailed(f"Python {version}: its image has no loader")
    folders = [home / "lib", *root.glob("usr/lib/*-linux-gnu*"), root / "usr" / "lib"]
    libraries = ":".join(map(str, folders))
    program = str(home / "bin" / f"python{version}")
    command = (str(loaders[0]), "--library-path", libraries, program)
    return Python(command, {"PYTHONHOME": str(home)}, "")
