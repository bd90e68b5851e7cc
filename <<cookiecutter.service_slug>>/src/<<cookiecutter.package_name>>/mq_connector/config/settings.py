"""What it takes to log in to a broker as one service.

It comes from a configuration file (see `mq_connector.config.files`); the environment, or a file ``.env``
in the working directory, overrides single values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from .environment import environment
from .files import look_up, places, unwrap, users
from .tls import PORT as TLS_PORT
from .tls import TLS
from .tls import load as load_tls
from .values import flaw, shown, whole

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
        f"no configuration: none of {', '.join(os.path.abspath(each) for each in places(env))} exists; start the "
        "service in its own folder, where `python rabbitmq/provision.py` makes one, or set MQ_USERNAME and MQ_PASSWORD"
    )


def _settings(
    service_name: str, config: Mapping[str, Any], env: Mapping[str, str], source: str
) -> Settings:
    user = users(config).get(service_name)
    if not isinstance(user, Mapping):
        user = {}
    # Neon's documents say "username", the code of neon-mq-connector reads "user".
    username = env.get("MQ_USERNAME") or _first(user.get("username"), user.get("user"))
    password = env.get("MQ_PASSWORD") or user.get("password")
    tls = load_tls(config, env, source)
    if tls and tls.cert and password in (None, ""):
        username, password = _first(username, service_name), ""
    for value, key, variable in (
        (username, "username", "MQ_USERNAME"),
        (password, "password", "MQ_PASSWORD"),
    ):
        if value in (None, "") and not (value == "" and tls and tls.cert):
            raise ConfigurationError(
                f"{source}: users.{service_name}.{key} is missing; add it or set {variable}"
            )
        if reason := flaw(value):
            raise ConfigurationError(f"{source}: users.{service_name}.{key} ({variable}) {reason}")
    given = env.get("MQ_PORT") or config.get("port")
    default = TLS_PORT if tls else DEFAULT_PORT
    port = default if given in (None, "") else whole(given, 1, 65535)
    if port is None:
        where = _where(env, "MQ_PORT", f"{source}: port")
        raise ConfigurationError(f"{where} is {shown(given)}; it must be a number from 1 to 65535")
    servers = env.get("MQ_SERVER") or config.get("server")
    if servers in (None, ""):
        servers = DEFAULT_SERVER
    where = _where(env, "MQ_SERVER", f"{source}: server")
    if isinstance(servers, str):
        servers = servers.split(",")
    if not isinstance(servers, (list, tuple)) or not all(
        isinstance(server, str) for server in servers
    ):
        raise ConfigurationError(
            f"{source}: server must be a host name, or several as a list or with commas"
        )
    hosts = tuple(_host(server.strip(), port, where) for server in servers if server.strip())
    if not hosts:
        raise ConfigurationError(f"{where} is empty; name a host")
    return Settings(hosts, str(username), str(password), source, tls)


def _where(env: Mapping[str, str], variable: str, key: str) -> str:
    """Where a value stands: the variable that overrides the file, or the file's key."""
    return variable if env.get(variable) else f"{key} ({variable})"


def _first(value: Any, other: Any) -> Any:
    """The value, or the other where it is missing; zero and false aren't, somebody meant something by them."""
    return other if value in (None, "") else value


def _host(server: str, port: int, where: str) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port``; what is none of them may hold a password, so it isn't repeated."""
    if "@" in server or "/" in server:
        raise ConfigurationError(
            f"{where} holds a URL; name only the host, or host:port, and put "
            "user and password where they belong"
        )
    name, colon, number = server.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):
        name = server
    else:
        given = whole(number, 1, 65535)
        if given is None:
            raise ConfigurationError(
                f"{where} has something after a colon that is no port from 1 to 65535; "
                "name only the host, or host:port"
            )
        port = given
    name = name.strip("[]")
    try:
        name.encode("idna")  # as it is looked up
    except UnicodeError:
        name = ""
    if not name or not name.isprintable() or " " in name:
        raise ConfigurationError(f"{where} holds what can't be a host's name; name a host")
    return name, port
