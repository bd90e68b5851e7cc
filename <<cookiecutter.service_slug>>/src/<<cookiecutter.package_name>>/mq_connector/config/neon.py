"""Neon's own configuration, ``diana.yaml``: one dict made of several files, the key ``MQ`` of which is ours.

It is only looked at where no ``mq_config.json`` counts, and only read where PyYAML is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .environment import config_home, home, text_of

#: What Neon's images set ``OVOS_CONFIG_BASE_FOLDER`` and ``OVOS_CONFIG_FILENAME`` to.
FOLDER, FILE_NAME = "neon", "diana.yaml"


def places(env: Mapping[str, str]) -> list[Path]:
    """Where Neon's configuration may lie: what a later file says overrides the earlier ones.

    The order is that of ``ovos-config``, on which Neon's services rely; the system's XDG folders
    override the user's there.
    """
    folder = env.get("OVOS_CONFIG_BASE_FOLDER") or FOLDER
    name = env.get("OVOS_CONFIG_FILENAME") or FILE_NAME
    mine, config = home(env), config_home(env)
    default = env.get("OVOS_DEFAULT_CONFIG")
    system = (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    return [
        *([Path(default)] if default else []),
        Path(env.get("OVOS_DISTRIBUTION_CONFIG") or Path("/usr/share", folder, name)),
        Path(env.get("MYCROFT_SYSTEM_CONFIG") or Path("/etc", folder, name)),
        *([mine / f".{folder}" / name] if mine else []),
        *([config / folder / name] if config else []),
        *(Path(each) / folder / name for each in reversed(system) if each.startswith("/")),
    ]


def read(env: Mapping[str, str]) -> tuple[dict[str, Any], str] | None:
    """Read what there is.

    :returns: the configuration under ``MQ``, and its files, for messages; None where there is none
    :raises ConfigurationError: a file can't be read or isn't what its name says
    """
    merged: dict[str, Any] = {}
    files = [path for path in places(env) if os.path.isfile(path)]
    missing = ""
    for path in files:
        config, remark = _load(path)
        missing = missing or remark
        try:
            _merge(merged, config)
        except RecursionError:  # YAML can hold what holds itself
            raise ConfigurationError(f"{path}: has no end; take its aliases out") from None
    config = merged.get("MQ") or merged
    source = ", ".join(map(str, files)) + missing
    if not missing and not (isinstance(config, dict) and isinstance(config.get("users"), dict)):
        return None  # Neon's configuration, but not of its message queue
    return (config, source) if files else None


def _load(path: Path) -> tuple[dict[str, Any], str]:
    """One file, and a remark where it can't be read here."""
    text = text_of(path)
    reason = ""
    try:
        if path.suffix in (".yaml", ".yml"):
            config = import_module("yaml").safe_load(text)
        else:
            config = json.loads(text)
    except ImportError:
        return {}, " (not read: PyYAML isn't installed)"
    except (
        Exception
    ) as error:  # whatever YAML's constructors raise; their words may hold a password
        mark = getattr(error, "problem_mark", None)
        line = getattr(error, "lineno", mark.line + 1 if mark else 0)
        reason = f"line {line}" if line else type(error).__name__
    if reason:
        raise ConfigurationError(f"{path}: isn't valid ({reason}); fix it")
    return (config if isinstance(config, dict) else {}), ""


def _merge(base: dict[str, Any], config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
