"""The RabbitMQ that this machine has installed: where its scripts are, which version, what it knows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

#: The first RabbitMQ that knows all keys of the policies (`dead-letter-strategy`).
OLDEST = (3, 10)
#: Where packages put the server's own scripts. Those that Debian has in /usr/sbin won't do: they
#: switch to another user when root calls them, and refuse everybody else.
FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)


class BrokerError(Exception):
    """The broker doesn't start or doesn't do what it is told."""


class NoServer(BrokerError):
    """There is no RabbitMQ on this machine that could be run."""


class Installation:
    """The RabbitMQ that this machine has.

    :raises NoServer: it has none, or one that is too old
    """

    def __init__(self) -> None:
        found = shutil.which("rabbitmq-server")
        candidates = [os.path.dirname(os.path.realpath(found))] if found else []
        # The real script has its settings beside it, a wrapper hasn't.
        real = [
            Path(each) for each in (*candidates, *FOLDERS) if Path(each, "rabbitmq-env").exists()
        ]
        epmd = shutil.which("epmd")
        if not real or epmd is None:
            raise NoServer(f"no rabbitmq-server on this machine: {how_to_install()}")
        #: Folder of the server's scripts.
        self.scripts = real[0]
        self.epmd = epmd
        self.plugins = (
            Path(os.path.realpath(self.scripts / "rabbitmq-server")).parents[1] / "plugins"
        )
        self._keys: list[str] | None = None
        names = [
            match[1]
            for each in self.plugins.glob("rabbit-*")
            if (match := re.fullmatch(r"rabbit-(\d+\.\d+.*?)(?:\.ez)?", each.name))
        ]
        #: Its version, such as "3.10.8".
        self.version: str = names[0] if names else "unknown"
        if names and tuple(map(int, self.version.split(".")[:2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise NoServer(f"RabbitMQ {self.version} is too old, {needed} or newer is needed")

    def knows(self, key: str) -> bool:
        """Whether a key may stand in rabbitmq.conf; one that it doesn't know stops the broker."""
        if self._keys is None:
            files = self.plugins.glob("*/priv/schema/*.schema")
            texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
            found = re.findall(r'\{\s*mapping\s*,\s*"([^"]+)"', "\n".join(texts))
            # A segment that starts with a dollar stands for any.
            self._keys = [re.sub(r"\\\$\w+", r"[^.]+", re.escape(each)) for each in found]
        return not self._keys or any(re.fullmatch(each, key) for each in self._keys)


def how_to_install() -> str:
    """The command that installs RabbitMQ here."""
    for manager, package in (
        ("apt-get", "rabbitmq-server"),
        ("dnf", "rabbitmq-server"),
        ("zypper", "rabbitmq-server"),
        ("brew", "rabbitmq"),
    ):
        if shutil.which(manager):
            sudo = "" if manager == "brew" or os.geteuid() == 0 else "sudo "
            return f"{sudo}{manager} install {package}"
    return "install RabbitMQ 3.10 or newer"
