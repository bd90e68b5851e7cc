"""The variables that override a configuration: the process's own, and those of a file ``.env``."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ConfigurationError


def environment() -> Mapping[str, str]:
    """The process's environment, and behind it what ``.env`` in the working directory sets.

    :raises ConfigurationError: there is a ``.env`` that can't be read
    """
    if not os.path.exists(".env"):
        return os.environ
    from dotenv import dotenv_values  # 2 MB that a container without .env can do without

    try:
        settings = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f".env: can't be read ({error}); fix or remove it") from None
    return {**{key: value for key, value in settings.items() if value is not None}, **os.environ}
