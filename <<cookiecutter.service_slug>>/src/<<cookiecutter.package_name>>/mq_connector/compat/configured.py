"""What a connector of Neon's takes from its configuration and its environment."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from typing import Any

import pika
from pika.exceptions import AMQPError

from .. import config as configuration
from ..connection.address import parameters as parameters_of
from ..connection.broker import describe, permanent_reason
from ..connector import MQConnector
from ..errors import NotConnected, StartError
from .config import load_neon_mq_config
from .utils.connection_utils import get_timeout

#: Attempts at a connection for `ConfiguredConnector.create_mq_connection`, and the first pause in
#: seconds: three seconds altogether.
_ATTEMPTS, _FIRST_PAUSE = 5, 0.2


class ConfiguredConnector(MQConnector):
    """A connector with the incumbent's settings.

    :param config: as in ``mq_config.json``, bare or under ``MQ``; by default it is looked for
    :param service_name: key of the service's credentials under ``users``
    """

    #: Key, in the service's part of the configuration, of what overrides its properties.
    property_key = "properties"

    def __init__(self, config: Mapping[str, Any] | None, service_name: str) -> None:
        super().__init__(None, service_name)
        self._vhost = ""
        self.config = config
        self.sync_period: float = 0
        self.observe_period: float = 0
        self.vhost_prefix = ""
        self.default_testing_prefix = ""
        self.testing_envs: Any = ()
        self.testing_prefix_envs: Any = ()
        overridden = self.service_config.get(self.property_key) or {}
        for name, value in {
            **self._mq_basic_properties,
            **self.service_configurable_properties,
        }.items():
            setattr(self, name, overridden.get(name, value))

    # ---- configuration

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; what is set may be wrapped in ``MQ``, and nothing means to look for it."""
        return self._mq_config

    @config.setter
    def config(self, config: Mapping[str, Any] | None) -> None:
        self._mq_given = bool(config)
        # The look-up that the login makes as well: by the service's name. An `init_config` of the
        # service's own comes before it.
        own = type(self).init_config is not ConfiguredConnector.init_config
        found = self.init_config(config) if config or own else None
        self._mq_config: dict[str, Any] = found or load_neon_mq_config(self.service_name)

    @staticmethod
    def init_config(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The configuration without its wrapping; looked for where none is given."""
        return configuration.unwrap(config) if config else load_neon_mq_config()

    @property
    def service_config(self) -> dict[str, Any]:
        """The service's part, under ``users``; empty where there is none."""
        users = self.config.get("users")
        part = users.get(self.service_name) if isinstance(users, Mapping) else None
        return dict(part) if isinstance(part, Mapping) else {}

    @property
    def service_configurable_properties(self) -> dict[str, Any]:
        """Attributes that the configuration may set, with defaults; for subclasses."""
        return {}

    @property
    def _mq_basic_properties(self) -> dict[str, Any]:
        name = self.service_name.upper()
        return {
            "sync_period": 10,
            "observe_period": 20,
            "vhost_prefix": "",
            "default_testing_prefix": "test",
            "testing_envs": (f"{name}_TESTING", "MQ_TESTING"),
            "testing_prefix_envs": (f"{name}_TESTING_PREFIX", "MQ_TESTING_PREFIX"),
        }

    # ---- the vhost

    @property
    def testing_mode(self) -> bool:
        """Whether one of the variables `testing_envs` is ``1``."""
        return any(os.environ.get(variable) == "1" for variable in self.testing_envs)

    @property
    def testing_prefix(self) -> str:
        """What vhosts begin with in testing mode: the first of `testing_prefix_envs` that is set."""
        values = (os.environ.get(variable) for variable in self.testing_prefix_envs)
        return next(filter(None, values), self.default_testing_prefix)

    @property
    def vhost(self) -> str:
        """The virtual host, with `vhost_prefix` and, in testing mode, `testing_prefix` before its name."""
        vhost = self._vhost or "/"
        for prefix in (self.vhost_prefix, self.testing_prefix if self.testing_mode else ""):
            if prefix and prefix not in vhost.split("_")[0]:
                vhost = f"/{prefix}_{vhost[1:]}"
        self._vhost = vhost.removesuffix("_")
        return self._vhost

    @vhost.setter
    def vhost(self, vhost: str | None) -> None:
        name = str(vhost or "")
        self._vhost = name if name.startswith("/") else f"/{name}"

    # ---- connections

    def _mq_hosts(self, vhost: str) -> list[pika.ConnectionParameters]:
        return parameters_of(self.settings(), vhost, self.service_name)

    def settings(self) -> configuration.Settings:
        """Hosts and credentials.

        :raises ConfigurationError: with one line that names file, key and remedy
        """
        return configuration.load(self.service_name, self.config if self._mq_given else None)

    @property
    def mq_credentials(self) -> Any:
        """pika's credentials of this service.

        :raises ConfigurationError: there are none
        """
        return self._mq_hosts("/")[0].credentials

    def get_connection_params(self, vhost: str, **kwargs: Any) -> pika.ConnectionParameters:
        """pika's parameters for a vhost, of the first host.

        :param kwargs: override what `pika.ConnectionParameters` takes
        :raises ConfigurationError: something is missing
        """
        parameters = self._mq_hosts(vhost)[0]
        for name, value in kwargs.items():
            if not hasattr(type(parameters), name):
                raise TypeError(f"connections have no parameter {name!r}")
            setattr(parameters, name, value)
        return parameters

    def all_connection_params(self, vhost: str, **kwargs: Any) -> list[pika.ConnectionParameters]:
        """As `get_connection_params`, one for each host."""
        every = [self.get_connection_params(vhost, **kwargs)]
        for host, port in self.settings().hosts[1:]:
            parameters = copy.copy(every[0])
            parameters.host, parameters.port = host, port
            every.append(parameters)
        return every

    def create_mq_connection(  # type: ignore[override]  # Neon's services use it as a connection
        self, vhost: str = "/", **kwargs: Any
    ) -> pika.BlockingConnection:
        """Open a connection to a vhost.

        :param kwargs: as for `get_connection_params`
        :raises ConfigurationError: something is missing in the configuration
        :raises StartError: the broker refuses us
        :raises NotConnected: there is no connection, also after some attempts
        """
        hosts = self.all_connection_params(vhost, **kwargs)
        parameters = hosts[0]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return pika.BlockingConnection(hosts)
            except (AMQPError, OSError) as error:
                username = getattr(parameters.credentials, "username", "")
                reason = permanent_reason(error, vhost, username)
                if reason:
                    raise StartError(reason) from None
                reason = describe(error)
            if attempt < _ATTEMPTS:
                time.sleep(get_timeout(_FIRST_PAUSE, attempt))
        raise NotConnected(f"no connection to {parameters.host}:{parameters.port}: {reason}")
