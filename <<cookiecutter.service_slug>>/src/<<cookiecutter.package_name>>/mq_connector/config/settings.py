"""What it takes to log in to a broker as one service.

It comes from a configuration file (see `mq_connector.config.files`); the environment, or a file ``.env``
in the working directory, overrides single values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from .environment import environment
from .files import look_up, places, unwrap, users
from .tls import PORT as TLS_PORT
from .tls import TLS
from .tls import load as load_tls

DEFAULT_SERVER, DEFAULT_PORT = "localhost", 5672


@dataclass(frozen=True)
class Settings:
    """What it takes to log in to a broker as one service."""

    hosts: tuple[tuple[str, int], ...]
    username: str
    password: str = field(repr=False)
    #: The file or variable that the settings come from, for messages.
    source: str
    tls: TLS | None = None


def load(service_name: str, config: Mapping[str, Any] | None = None) -> Settings:
    """Find the settings of a service.

    :param service_name: key under ``users``
    :param config: used instead of a file
    :raises ConfigurationError: with one line that names file, key and remedy
    """
    env = environment()
    if config is not None:
        return _settings(service_name, unwrap(config), env, "configuration")
    found = look_up(service_name, env)
    if found is not None:
        return _settings(service_name, found[0], env, found[1])
    if env.get("MQ_USERNAME") and env.get("MQ_PASSWORD"):
        return _settings(service_name, {}, env, "environment")
    raise ConfigurationError(
        f"no configuration: none of {', '.join(map(str, places(env)))} exists; make one with "
        "`python rabbitmq/provision.py`, or set MQ_USERNAME and MQ_PASSWORD"
    )


def _settings(
    service_name: str, config: Mapping[str, Any], env: Mapping[str, str], source: str
) -> Settings:
    user = users(config).get(service_name)
    if not isinstance(user, Mapping):
        user = {}
    # Neon's documents say "username", the incumbent's code reads "user".
    username = env.get("MQ_USERNAME") or user.get("username") or user.get("user")
    password = env.get("MQ_PASSWORD") or user.get("password")
    tls = load_tls(config, env, source)
    if tls and tls.cert and not password:
        username, password = username or service_name, ""
    for value, key, variable in (
        (username, "username", "MQ_USERNAME"),
        (password, "password", "MQ_PASSWORD"),
    ):
        if not isinstance(value, str) or not (value or (tls and tls.cert)):
            raise ConfigurationError(
                f"{source}: users.{service_name}.{key} is missing; add it or set {variable}"
            )
    port = _port(
        env.get("MQ_PORT") or config.get("port") or (TLS_PORT if tls else DEFAULT_PORT), source
    )
    servers = env.get("MQ_SERVER") or config.get("server") or DEFAULT_SERVER
    if isinstance(servers, str):
        servers = servers.split(",")
    if not isinstance(servers, (list, tuple)) or not all(
        isinstance(server, str) for server in servers
    ):
        raise ConfigurationError(
            f"{source}: server must be a host name, or several as a list or with commas"
        )
    hosts = tuple(_host(server.strip(), port, source) for server in servers if server.strip())
    if not hosts:
        raise ConfigurationError(f"{source}: server is empty; name a host")
    return Settings(hosts, str(username), str(password), source, tls)


def _host(server: str, port: int, source: str) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port``."""
    if "@" in server or "/" in server:  # a URL may hold a password, so it isn't repeated
        raise ConfigurationError(
            f"{source}: server (MQ_SERVER) holds a URL; name only the host, or host:port, and put "
            "user and password where they belong"
        )
    name, colon, number = server.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):
        return server.strip("[]"), port
    return name.strip("[]"), _port(number, source, f"the port of server (MQ_SERVER) {server!r}")


def _port(value: Any, source: str, key: str = "port (MQ_PORT)") -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 0 < port < 65536:
        raise ConfigurationError(
            f"{source}: {key} is {value!r}; it must be a number from 1 to 65535"
        )
    return port
