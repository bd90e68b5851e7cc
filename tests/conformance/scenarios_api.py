"""A connector before it runs: configuration, vhost, credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika

from .checklist import scenario
from .lab import PACKAGES, SERVICE, Lab

USER = {"user": "somebody", "password": "secret"}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables for the length of the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _connector(lab: Lab, **part: Any) -> Any:
    return lab.find("MQConnector")({"users": {"weather": {**USER, **part}}}, "weather")


@scenario("connector", wire=False)
def a_connector_starts_empty(lab: Lab) -> None:
    connector = _connector(lab)
    assert connector.consumers == {}
    assert connector.consumer_properties == {}
    assert connector.started is False
    assert connector.check_health() is False
    assert connector.service_name == "weather"


@scenario("connector", wire=False)
def the_service_id_stays(lab: Lab) -> None:
    connector = _connector(lab)
    assert connector.service_id == connector.service_id
    assert connector.service_id != _connector(lab).service_id
    assert len(connector.create_unique_id()) == 32


@scenario("connector", wire=False)
def the_config_setter_unwraps(lab: Lab) -> None:
    connector = _connector(lab)
    connector.config = {"MQ": {"server": "elsewhere", "users": {"weather": {"user": "x"}}}}
    assert connector.config["server"] == "elsewhere"
    assert connector.service_config == {"user": "x"}


@scenario(
    "connector",
    wire=False,
    incumbent_fails="a wrapped configuration isn't unwrapped by the constructor",
)
def the_constructor_unwraps_too(lab: Lab) -> None:
    connector = lab.find("MQConnector")({"MQ": {"users": {"weather": USER}}}, "weather")
    assert connector.service_config == USER


@scenario("connector", wire=False)
def the_service_has_its_part_of_the_configuration(lab: Lab) -> None:
    assert _connector(lab).service_config == USER
    assert lab.find("MQConnector")({"users": {"other": USER}}, "weather").service_config == {}


@scenario("connector", wire=False)
def properties_come_from_the_configuration(lab: Lab) -> None:
    class Weather(lab.find("MQConnector")):  # type: ignore[misc]
        @property
        def service_configurable_properties(self) -> dict[str, Any]:
            return {"city": "Kyiv", "observe_period": 3}

    config = {"users": {"weather": {**USER, "properties": {"city": "Lviv", "sync_period": 7}}}}
    weather = Weather(config, "weather")
    assert (weather.city, weather.sync_period, weather.observe_period) == ("Lviv", 7, 3)
    assert (_connector(lab).sync_period, _connector(lab).observe_period) == (10, 20)


@scenario("connector", wire=False)
def the_property_key_can_be_another(lab: Lab) -> None:
    class Weather(lab.find("MQConnector")):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            self.property_key = "settings"
            super().__init__(config, "weather")

    weather = Weather({"users": {"weather": {**USER, "settings": {"sync_period": 5}}}})
    assert weather.sync_period == 5


@scenario("connector", wire=False)
def consumers_are_select_by_default(lab: Lab) -> None:
    cls = lab.find("MQConnector")
    assert cls.async_consumers_enabled
    assert _connector(lab).consumer_thread_cls is lab.find("SelectConsumerThread", "consumers")

    class Blocking(cls):  # type: ignore[misc,valid-type]
        async_consumers_enabled = False

    consumer = Blocking({"users": {"a": USER}}, "a").consumer_thread_cls
    assert consumer is lab.find("BlockingConsumerThread", "consumers")
    assert issubclass(lab.find("ConsumerThread"), lab.find("BlockingConsumerThread", "consumers"))


@scenario("connector", wire=False, incumbent_fails="any text in MQ_ASYNC_CONSUMERS counts as true")
def async_consumers_can_be_turned_off_by_a_variable(lab: Lab) -> None:
    package = PACKAGES[lab.kind]
    code = f"from {package}.connector import MQConnector as c; print('IS', bool(c.async_consumers_enabled))"
    environment = {**os.environ, "MQ_ASYNC_CONSUMERS": "false", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "IS False" in done.stdout, done.stderr


@scenario("vhost", wire=False)
def a_vhost_gets_its_slash(lab: Lab) -> None:
    connector = _connector(lab)
    assert connector.vhost == "/"
    for given, expected in (
        ("weather", "/weather"),
        ("/weather", "/weather"),
        ("", "/"),
        (None, "/"),
    ):
        connector.vhost = given
        assert connector.vhost == expected


@scenario("vhost", wire=False)
def a_vhost_gets_its_prefix_once(lab: Lab) -> None:
    connector = _connector(lab, properties={"vhost_prefix": "blue"})
    connector.vhost = "weather"
    assert connector.vhost == connector.vhost == "/blue_weather"
    connector.vhost = "/blue_weather"
    assert connector.vhost == "/blue_weather"
    connector.vhost = "/"
    assert connector.vhost == "/blue"


@scenario("vhost", wire=False)
def testing_mode_changes_the_vhost(lab: Lab) -> None:
    connector = _connector(lab)
    connector.vhost = "weather"
    assert connector.testing_mode is False
    with environment(MQ_TESTING="1"):
        assert connector.testing_mode is True
        assert connector.testing_prefix == "test"
        assert connector.vhost == "/test_weather"
    connector.vhost = "weather"
    with environment(WEATHER_TESTING="1", WEATHER_TESTING_PREFIX="mine", MQ_TESTING_PREFIX="not"):
        assert connector.vhost == "/mine_weather"
    with environment(MQ_TESTING="0"):
        assert connector.testing_mode is False


@scenario("credentials", wire=False)
def credentials_are_the_services(lab: Lab) -> None:
    credentials = _connector(lab).mq_credentials
    assert (credentials.username, credentials.password) == ("somebody", "secret")


@scenario(
    "credentials", wire=False, incumbent_fails="only `user` is read, not the documented `username`"
)
def credentials_may_say_username(lab: Lab) -> None:
    config = {"users": {"weather": {"username": "somebody", "password": "secret"}}}
    assert lab.find("MQConnector")(config, "weather").mq_credentials.username == "somebody"


@scenario("credentials", wire=False)
def missing_credentials_raise(lab: Lab) -> None:
    connector = lab.find("MQConnector")({"users": {"other": USER}}, "weather")
    try:
        connector.mq_credentials  # noqa: B018
    except Exception as error:
        assert "weather" in str(error)
    else:
        raise AssertionError("credentials out of nothing")


@scenario("credentials", wire=False)
def connection_parameters_take_options(lab: Lab) -> None:
    connector = lab.find("MQConnector")({"server": "h", "port": "1234", "users": {"w": USER}}, "w")
    parameters = connector.get_connection_params("/v", heartbeat=7)
    assert isinstance(parameters, pika.ConnectionParameters)
    found = (parameters.host, parameters.port, parameters.virtual_host, parameters.heartbeat)
    assert found == ("h", 1234, "/v", 7)
    assert connector.mq_credentials.username == "somebody"
    assert parameters.credentials == connector.mq_credentials
    assert connector.get_connection_params("/v").heartbeat != 7


@scenario("credentials", wire=False)
def defaults_are_localhost_and_5672(lab: Lab) -> None:
    parameters = _connector(lab).get_connection_params("/")
    assert (parameters.host, parameters.port) == ("localhost", 5672)


@scenario("credentials")
def a_connection_can_be_used_as_a_block(lab: Lab) -> None:
    connector = lab.connector()
    with connector.create_mq_connection(connector.vhost) as connection:
        assert isinstance(connection, pika.BlockingConnection)
        assert connection.is_open
        connection.channel().close()
    assert connection.is_closed
    with connector.create_mq_connection(vhost=connector.vhost, heartbeat=33) as connection:
        assert connection.is_open


@scenario("credentials")
def the_services_name_is_its_key(lab: Lab) -> None:
    config = {**lab.config(), "users": {"renamed": lab.config()["users"][SERVICE]}}
    connector = lab.find("MQConnector")(config, "renamed")
    connector.create_mq_connection(lab.vhost).close()
