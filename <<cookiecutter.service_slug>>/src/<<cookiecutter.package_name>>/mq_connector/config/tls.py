"""TLS to the broker: verified unless the configuration says otherwise in so many words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from .values import is_on

#: The port of AMQP over TLS.
PORT = 5671
_KEYS = ("ca", "cert", "key", "verify")


@dataclass(frozen=True)
class TLS:
    """What ``tls`` in the configuration holds."""

    #: File with the certificates of authorities; without it, those that the system trusts.
    ca: str | None = None
    #: Files with our own certificate and its key. Without a password they are the login (EXTERNAL).
    cert: str | None = None
    key: str | None = None
    #: Whether the broker's certificate and host name are checked.
    verify: bool = True


def load(config: Mapping[str, Any], env: Mapping[str, str], source: str) -> TLS | None:
    """``tls`` of a configuration, overridden by ``MQ_TLS`` and ``MQ_TLS_CA``, ``_CERT``, ``_KEY``.

    ``true`` stands for TLS with all defaults, as an object with any of the keys does.

    :returns: None for a plain connection
    :raises ConfigurationError: a key or a value is unknown, or has no effect as another one is missing
    """
    value = config.get("tls", False)
    if isinstance(value, bool):
        wanted, values = value, {}
    elif isinstance(value, Mapping) and set(value) <= set(_KEYS):
        wanted, values = True, dict(value)
    else:
        raise ConfigurationError(
            f"{source}: tls must be true, false or an object with {', '.join(_KEYS)}"
        )
    text = env.get("MQ_TLS")
    if text is not None:
        wanted = is_on("MQ_TLS", text)
    for key in ("ca", "cert", "key"):
        values[key] = env.get(f"MQ_TLS_{key.upper()}") or values.get(key)
        # A name in another encoding arrives from the environment as halves of pairs, and opens the file.
        if values[key] is not None and (not isinstance(values[key], str) or "\0" in values[key]):
            raise ConfigurationError(f"{source}: tls.{key} must be the name of a file, in quotes")
    if not isinstance(values.get("verify", True), bool):
        raise ConfigurationError(f"{source}: tls.verify must be true or false")
    named = {key: f"MQ_TLS_{key.upper()}" for key in ("ca", "cert", "key")}
    given = [variable for variable in named.values() if env.get(variable)]
    # Whoever has named them wants TLS: without it the password would travel in the clear.
    if given and not wanted and not text and "tls" not in config:
        raise ConfigurationError(
            f"{given[0]} has no effect without MQ_TLS; set MQ_TLS=true, or take {given[0]} out"
        )
    if wanted and values["key"] and not values["cert"]:
        where = named["key"] if named["key"] in given else f"{source}: tls.key"
        raise ConfigurationError(
            f"{where} has no effect without the certificate; name that in MQ_TLS_CERT or tls.cert"
        )
    return TLS(**values) if wanted else None
