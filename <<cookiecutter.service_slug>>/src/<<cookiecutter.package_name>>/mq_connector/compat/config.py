"""Finding and holding a configuration, under the incumbent's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import config as configuration


def load_neon_mq_config(service_name: str = "") -> dict[str, Any]:
    """Find the configuration, as `mq_connector.config.settings.load` does.

    :param service_name: a later place counts if only that one has this user
    :returns: without the wrapping ``MQ``; empty where there is none
    :raises ConfigurationError: a file is there and can't be used
    """
    found = configuration.look_up(service_name, configuration.environment())
    return found[0] if found else {}


class Configuration:
    """Holds a configuration that was read from a JSON file or made otherwise.

    :param file_path: read at once
    """

    def __init__(self, file_path: str | None = None) -> None:
        self._config_data: dict[str, Any] = {}
        if file_path:
            self.from_file(file_path)

    def from_file(self, file_path: str) -> Configuration:
        """Read a JSON file and return this object."""
        text = Path(file_path).expanduser().read_text(encoding="utf-8-sig")
        return self.from_dict(json.loads(text))

    def from_dict(self, config_data: dict[str, Any]) -> Configuration:
        """Take a dict and return this object."""
        self._config_data = config_data
        return self

    @property
    def config_data(self) -> dict[str, Any]:
        """What it holds; setting anything but a dict raises a TypeError."""
        return self._config_data

    @config_data.setter
    def config_data(self, value: dict[str, Any]) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"config_data must be a dict, not a {type(value).__name__}")
        self._config_data = value
