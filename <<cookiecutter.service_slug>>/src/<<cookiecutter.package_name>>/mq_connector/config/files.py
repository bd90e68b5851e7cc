"""The configuration files: where they are looked for, and which of them counts.

The file is Neon's ``mq_config.json``, bare or wrapped in ``{"MQ": {…}}``::

    {"server": "localhost", "port": 5672, "users": {"<service>": {"username": "…", "password": "…"}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from . import neon
from .environment import config_home, home, text_of

#: Name of the configuration file in every folder that is looked into.
FILE_NAME = "mq_config.json"


def places(env: Mapping[str, str]) -> list[Path]:
    """Where a configuration file is looked for, in this order; the first that is there counts.

    ``$NEON_MQ_CONFIG_PATH`` names a file. Then come ``neon/mq_config.json`` in ``$XDG_CONFIG_HOME``
    (``~/.config``), Neon's older ``~/.local/share/neon/credentials.json``, and, after Neon's own
    ``diana.yaml`` (see `mq_connector.config.neon`), the working directory, where the repository keeps
    the one that belongs to its own broker.
    """
    explicit = env.get("NEON_MQ_CONFIG_PATH")
    folder, mine = config_home(env), home(env)
    return [
        *([Path(os.path.expanduser(explicit))] if explicit else []),
        *([folder / "neon" / FILE_NAME] if folder else []),
        *([mine / ".local" / "share" / "neon" / "credentials.json"] if mine else []),
        Path(FILE_NAME),
    ]


def read(path: Path) -> dict[str, Any]:
    """Read one configuration file.

    :raises ConfigurationError: it can't be read, isn't JSON, or isn't an object; nothing that it holds is
        repeated, for it may be a password
    """
    try:
        config = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except ValueError:
        reason = "a number with too many digits"
    except RecursionError:
        reason = "too many brackets"
    else:
        return unwrap(config, str(path))
    raise ConfigurationError(f"{path}: isn't valid JSON ({reason}); fix it or make it again")


def unwrap(config: Any, source: str = "configuration") -> dict[str, Any]:
    """Take a configuration out of the ``MQ`` key that Neon may have put it in.

    :raises ConfigurationError: it isn't a mapping
    """
    if isinstance(config, Mapping) and isinstance(config.get("MQ"), Mapping):
        config = config["MQ"]
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            f'{source}: must be a JSON object like {{"server": …, "users": {{…}}}}'
        )
    return dict(config)


def look_up(service_name: str, env: Mapping[str, str]) -> tuple[dict[str, Any], str] | None:
    """The configuration that counts: the first, or a later one if only that has our user.

    So a file that other Neon services of this machine share doesn't hide the repository's own. A
    file that somebody has pointed to, by its path or its folder, counts whatever it holds.

    :returns: the configuration and where it comes from, for messages
    :raises ConfigurationError: a file is there and can't be used, or is missing though it was named
    """
    if env.get("NEON_MQ_CONFIG_PATH"):
        named = places(env)[0]
        if not os.path.exists(named):
            raise ConfigurationError(f"{named}: no such file, though NEON_MQ_CONFIG_PATH names it")
        return read(named), str(named)
    first = None
    for config, source in _all(env):
        pointed_to = bool(env.get("XDG_CONFIG_HOME")) and source == str(places(env)[0])
        if pointed_to or service_name in users(config):
            return config, source
        first = first or (config, source)
    return first


def _all(env: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every configuration there is, each read when it is asked for."""
    *shared, own = places(env)
    for path in shared:
        if os.path.exists(path):
            yield read(path), str(path)
    found = neon.read(env)
    if found is not None:
        yield found
    if os.path.exists(own):
        yield read(own), str(own)


def users(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The credentials in a configuration, by service; empty where there are none."""
    users = config.get("users")
    return users if isinstance(users, Mapping) else {}
