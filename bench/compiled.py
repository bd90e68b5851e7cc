"""Peers in compiled languages: built here, from Debian's packages where those are missing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .environment import HERE, Environment, EnvironmentFailed, cache

SOURCES = HERE / "contenders" / "compiled"
#: Where Debian's packages put Go's libraries.
_GO_PATH = "/usr/share/gocode"
#: Seconds that a package or a build may take.
_PATIENCE = 300


@dataclass(frozen=True)
class Recipe:
    """How one of them is built."""

    source: str
    #: What must be there before, and Debian's packages that bring it.
    needs: tuple[Path, ...]
    packages: tuple[str, ...]
    command: tuple[str, ...]
    #: Package whose version is the peer's.
    library: str
    #: What is loaded beside the program.
    loads: tuple[str, ...] = ()


RECIPES = {
    "librabbitmq": Recipe(
        "consumer.c",
        (Path("/usr/bin/gcc"), Path("/usr/include/amqp.h")),
        ("gcc", "libc6-dev", "librabbitmq-dev"),
        ("gcc", "-O2", "-o", "{program}", "{source}", "-lrabbitmq"),
        "librabbitmq-dev",
        ("/usr/lib/*/librabbitmq.so.4",),
    ),
    "amqp091-go": Recipe(
        "consumer.go",
        (Path("/usr/bin/go"), Path(_GO_PATH, "src/github.com/rabbitmq/amqp091-go")),
        ("golang-go", "golang-github-rabbitmq-amqp091-go-dev"),
        ("go", "build", "-o", "{program}", "{source}"),
        "golang-github-rabbitmq-amqp091-go-dev",
    ),
}


def install(*packages: str) -> None:
    """Install packages of Debian's, where we may; that it went well is for the caller to see."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        subprocess.run(["apt-get", "-qq", *step], env=quiet, capture_output=True, timeout=_PATIENCE)


class Compiled(Environment):
    """A peer that is a program of its own."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._recipe = RECIPES[peer]
        self._source = SOURCES / self._recipe.source
        digest = hashlib.sha256(self._source.read_bytes() + repr(self._recipe).encode())
        self._folder = cache() / "environments" / f"{peer}-{digest.hexdigest()[:12]}"
        self.program = self._folder / "consumer"

    @property
    def ready(self) -> bool:
        """Whether it has been built."""
        return self.program.exists()

    def make(self) -> None:
        """Build it where it is missing.

        :raises EnvironmentFailed: what it needs can't be had, or it can't be built
        """
        if self.ready:
            return
        self._install()
        self._folder.mkdir(parents=True, exist_ok=True)
        made = self.program.with_suffix(".new")
        words = {"program": str(made), "source": str(self._source)}
        own = {"GO111MODULE": "off", "GOPATH": _GO_PATH, "GOCACHE": str(cache() / "go")}
        done = subprocess.run(
            [word.format(**words) for word in self._recipe.command],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EnvironmentFailed(f"{self.peer} can't be built: {last}")
        made.rename(self.program)

    def _install(self) -> None:
        if not self._missing:
            return
        recipe = self._recipe
        install(*recipe.packages)
        if missing := self._missing:
            raise EnvironmentFailed(
                f"{self.peer}: there is no {missing[0]}; Debian has it in {' '.join(recipe.packages)}"
            )

    @property
    def _missing(self) -> list[Path]:
        return [each for each in self._recipe.needs if not each.exists()]

    def size(self) -> float:
        """Megabytes (2^20) of the program and the library that it loads."""
        files = [self.program]
        for pattern in self._recipe.loads:
            files += Path("/").glob(pattern.removeprefix("/"))
        return sum(file.stat().st_size for file in files) / 2**20

    def versions(self) -> dict[str, str]:
        """Version of the library, as Debian counts it."""
        command = ["dpkg-query", "--show", "--showformat", "${Version}", self._recipe.library]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        return {self.peer: done.stdout.partition("-")[0]}


def environment(peer: str) -> Environment:
    """The environment of a peer, of whichever kind."""
    return Compiled(peer) if peer in RECIPES else Environment(peer)
