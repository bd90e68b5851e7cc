"""The variables that override a configuration: the process's own, and those of a file ``.env``."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigurationError


def environment() -> Mapping[str, str]:
    """The process's environment, and behind it what ``.env`` in the working directory sets.

    :raises ConfigurationError: there is a ``.env`` that can't be read, or that its readers (Docker
        Compose, `rabbitmq/`) would read differently
    """
    try:
        raw = Path(".env").read_bytes()
    except (FileNotFoundError, IsADirectoryError):  # Compose takes no notice of a folder either
        return os.environ
    except OSError as error:
        hint = "; check its permissions" if isinstance(error, PermissionError) else ""
        raise ConfigurationError(f".env: can't be read ({error.strerror}){hint}") from None
    # 2 MB that a container without .env can do without.
    from dotenv import dotenv_values

    from . import dotenv_rules

    try:
        # What the process has counts before the file also where a value refers to it, so the file's
        # own is not even shown to python-dotenv, which would prefer it there.
        kept = [line for name, line in dotenv_rules.lines(raw) if name not in os.environ]
    except ValueError as error:
        raise ConfigurationError(f".env: {error}") from None
    settings = dotenv_values(stream=io.StringIO("\n".join(kept)))
    return {**{key: value or "" for key, value in settings.items()}, **os.environ}


def home(env: Mapping[str, str]) -> Path | None:
    """The user's home; None where neither HOME nor the system's list of users says where it is.

    That is so for the number of a user that a container is given.
    """
    found = env.get("HOME") or os.path.expanduser("~")
    return None if found == "~" else Path(found)


def config_home(env: Mapping[str, str]) -> Path | None:
    """Where the user's programs have their configuration, as freedesktop.org has it; None without a home."""
    if env.get("XDG_CONFIG_HOME"):
        return Path(env["XDG_CONFIG_HOME"])
    mine = home(env)
    return mine / ".config" if mine else None


def text_of(path: Path) -> str:
    """The text of a file.

    :raises ConfigurationError: it can't be read, or isn't UTF-8
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        hint = "; check its permissions" if isinstance(error, PermissionError) else ""
        raise ConfigurationError(f"{path}: can't be read ({error.strerror}){hint}") from None
    except UnicodeDecodeError as error:  # its own words hold a byte, which may be a password's
        raise ConfigurationError(
            f"{path}: isn't UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from None
