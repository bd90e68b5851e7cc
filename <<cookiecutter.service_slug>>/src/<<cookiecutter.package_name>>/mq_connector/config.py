"""Where a service finds its broker and its credentials.

The file is Neon's ``mq_config.json``, bare or wrapped in ``{"MQ": {…}}``::

    {"server": "localhost", "port": 5672, "users": {"<service>": {"username": "…", "password": "…"}}}

The environment, or a file ``.env`` in the working directory, overrides single values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika

from . import neon_config
from .errors import ConfigurationError
from .input_queue import KINDS
from .payload import MAX_DEPTH, MAX_SIZE
from .tls import PORT as TLS_PORT
from .tls import TLS
from .tls import load as load_tls

DEFAULT_SERVER, DEFAULT_PORT = "localhost", 5672
#: Seconds between heartbeats (AMQP 0-9-1, 4.2.7): a peer that is silent is given up after 25 to 50.
#: Shorter than the broker's 60, which callbacks can't delay here, as they run on other threads.
HEARTBEAT = 20
#: The kernel's own check of an idle connection (tcp(7), seconds), for a peer that is gone altogether.
#: Without TCP_USER_TIMEOUT, which would also end a connection that a memory alarm merely holds up.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
#: Name of the configuration file in every folder that is looked into.
FILE_NAME = "mq_config.json"


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


def places(env: Mapping[str, str]) -> list[Path]:
    """Where a configuration file is looked for, in this order; the first that is there counts.

    ``$NEON_MQ_CONFIG_PATH`` names a file. Then come ``neon/mq_config.json`` in ``$XDG_CONFIG_HOME``
    (``~/.config``), Neon's older ``~/.local/share/neon/credentials.json``, and, after Neon's own
    ``diana.yaml`` (see `mq_connector.neon_config`), the working directory, where the repository keeps
    the one that belongs to its own broker.
    """
    explicit = env.get("NEON_MQ_CONFIG_PATH")
    home = Path(env.get("HOME") or Path.home())
    folder = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return [
        *([Path(os.path.expanduser(explicit))] if explicit else []),
        folder / "neon" / FILE_NAME,
        home / ".local" / "share" / "neon" / "credentials.json",
        Path(FILE_NAME),
    ]


def read(path: Path) -> dict[str, Any]:
    """Read one configuration file.

    :raises ConfigurationError: it can't be read, isn't JSON, or isn't an object
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: can't be read ({error.strerror}); check its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{path}: isn't valid JSON ({error}); fix it or make it again"
        ) from None
    return unwrap(config, str(path))


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


@dataclass(frozen=True)
class Settings:
    """What it takes to log in to a broker as one service."""

    hosts: tuple[tuple[str, int], ...]
    username: str
    password: str = field(repr=False)
    #: The file or variable that the settings come from, for messages.
    source: str
    tls: TLS | None = None

    def parameters(self, vhost: str, name: str) -> list[pika.ConnectionParameters]:
        """pika's parameters, one for each host.

        :param name: how the connection calls itself in the broker's management pages
        """
        credentials: Any = pika.PlainCredentials(self.username, self.password)
        if self.tls and self.tls.cert and not self.password:
            credentials = pika.credentials.ExternalCredentials()  # the certificate is the login
        return [
            pika.ConnectionParameters(
                host=host,
                port=port,
                virtual_host=vhost,
                credentials=credentials,
                ssl_options=self.tls.options(host) if self.tls else None,
                connection_attempts=1,
                heartbeat=HEARTBEAT,
                tcp_options=KEEPALIVE,
                socket_timeout=5,
                stack_timeout=10,
                client_properties={"connection_name": name},
            )
            for host, port in self.hosts
        ]


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
        if pointed_to or service_name in _users(config):
            return config, source
        first = first or (config, source)
    return first


def _all(env: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every configuration there is, each read when it is asked for."""
    *shared, own = places(env)
    for path in shared:
        if os.path.exists(path):
            yield read(path), str(path)
    neon = neon_config.read(env)
    if neon is not None:
        yield neon
    if os.path.exists(own):
        yield read(own), str(own)


def _users(config: Mapping[str, Any]) -> Mapping[str, Any]:
    users = config.get("users")
    return users if isinstance(users, Mapping) else {}


def _settings(
    service_name: str, config: Mapping[str, Any], env: Mapping[str, str], source: str
) -> Settings:
    user = _users(config).get(service_name)
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


@dataclass(frozen=True)
class Limits:
    """How much a consumer takes on at a time."""

    #: Threads that run callbacks; 1 keeps the order of messages.
    workers: int = 1
    #: Deliveries that the broker sends ahead (AMQP ``basic.qos``); memory is bounded by it.
    prefetch: int = 200
    #: ``auto``, ``quorum`` or ``legacy``, see `mq_connector.input_queue`.
    queue_type: str = "auto"
    #: Bytes that a body may have, and levels of brackets in it, see `mq_connector.payload`.
    max_body: int = MAX_SIZE
    max_depth: int = MAX_DEPTH

    @classmethod
    def from_environment(cls) -> Limits:
        """Each limit from the variable with ``MQ_`` before its name, such as ``MQ_WORKERS``.

        :raises ConfigurationError: a value is out of its range
        """
        env = environment()
        workers = _whole(env, "MQ_WORKERS", cls.workers, 1, 1000)
        prefetch = _whole(env, "MQ_PREFETCH", max(cls.prefetch, 2 * workers), 1, 65535)
        queue_type = env.get("MQ_QUEUE_TYPE") or cls.queue_type
        if queue_type not in KINDS:
            raise ConfigurationError(
                f"MQ_QUEUE_TYPE is {queue_type!r}; it must be one of {', '.join(KINDS)}"
            )
        max_body = _whole(env, "MQ_MAX_BODY", cls.max_body, 1, 2**31 - 1)
        # A deeper one would run into Python's own limit of recursion.
        max_depth = _whole(env, "MQ_MAX_DEPTH", cls.max_depth, 1, 500)
        return cls(workers, prefetch, queue_type, max_body, max_depth)


def _whole(env: Mapping[str, str], variable: str, default: int, least: int, most: int) -> int:
    text = env.get(variable) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ConfigurationError(
            f"{variable} is {text!r}; it must be a whole number from {least} to {most}"
        )
    return int(text)
