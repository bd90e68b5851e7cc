"""Neon's own configuration, ``diana.yaml``: one dict made of several files, the key ``MQ`` of which is ours.

It is only looked at where no ``mq_config.json`` counts, and only read where PyYAML is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

#: What Neon's images set ``OVOS_CONFIG_BASE_FOLDER`` and ``OVOS_CONFIG_FILENAME`` to.
FOLDER, FILE_NAME = "neon", "diana.yaml"


def places(env: Mapping[str, str]) -> list[Path]:
    """Where Neon's configuration may lie: what a later file says overrides the earlier ones.

    The order is that of ``ovos-config``, on which Neon's services rely; the system's XDG folders
    override the user's there.
    """
    folder = env.get("OVOS_CONFIG_BASE_FOLDER") or FOLDER
    name = env.get("OVOS_CONFIG_FILENAME") or FILE_NAME
    home = Path(env.get("HOME") or Path.home())
    default = env.get("OVOS_DEFAULT_CONFIG")
    system = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    return [
        *([Path(default)] if default else []),
        Path(env.get("OVOS_DISTRIBUTION_CONFIG") or Path("/usr/share", folder, name)),
        Path(env.get("MYCROFT_SYSTEM_CONFIG") or Path("/etc", folder, name)),
        home / f".{folder}" / name,
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / folder / name,
        *(Path(each) / folder / name for each in reversed(system) if each.startswith("/")),
    ]


def read(env: Mapping[str, str]) -> tuple[dict[str, Any], str] | None:
    """Read what there is.

    :returns: the configuration under ``MQ``, and its files, for messages; None where there is none
    :raises ConfigurationError: a file can't be read or isn't what its name says
    """
    merged: dict[str, Any] = {}
    files = [path for path in places(env) if path.is_file()]
    missing = ""
    for path in files:
        config, missing = _load(path)
        _merge(merged, config)
    config = merged.get("MQ") or merged
    source = ", ".join(map(str, files)) + missing
    if not missing and not (isinstance(config, dict) and isinstance(config.get("users"), dict)):
        return None  # Neon's configuration, but not of its message queue
    return (config, source) if files else None


def _load(path: Path) -> tuple[dict[str, Any], str]:
    """One file, and a remark where it can't be read here."""
    parse: Callable[[str], Any] = json.loads
    errors: tuple[type[Exception], ...] = (ValueError,)
    if path.suffix in (".yaml", ".yml"):
        try:
            yaml = import_module("yaml")
        except ImportError:
            return {}, " (not read: PyYAML isn't installed)"
        parse, errors = yaml.safe_load, (ValueError, yaml.YAMLError)
    try:
        config = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: can't be read ({error.strerror}); check its permissions"
        ) from None
    except errors as error:
        what = str(error).splitlines()[0]
        raise ConfigurationError(f"{path}: isn't valid ({what}); fix it") from None
    return (config if isinstance(config, dict) else {}), ""


def _merge(base: dict[str, Any], config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
