"""What a service written for neon-mq-connector relies on, line by line, and the tests of each line.

A scenario is a function of a `lab.Lab`. It runs in a process of its own kind, see `subject`, once for
each implementation, and fails by raising.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

#: Every line: its key, and what it promises.
LINES = {
    "connector": "`MQConnector(config, service_name)`: state, configuration, properties",
    "vhost": "`vhost` with slash, `vhost_prefix` and testing prefix; `testing_mode`",
    "credentials": "`mq_credentials`, `get_connection_params`, `create_mq_connection`",
    "register_consumer": "`register_consumer(…)`: each parameter",
    "register_subscriber": "`register_subscriber(…)`: every subscriber gets every message",
    "send_message": "`send_message(…)`: to queues and exchanges, also before the consumer is there",
    "emit": "`emit_mq_message` and `publish_message` on blocking and select connections",
    "wire": "wire format: the same bytes, all payload shapes, ids, expiration",
    "on_error": "a handler's exception reaches `on_error(thread, exception)`; the next message is handled",
    "survival": "a consumer outlives what a handler or the broker does to it, or says that it doesn't",
    "run": "`run(…)`, `pre_run`, `post_run`, `stop()`, a broker that is down at first",
    "consumers": "`run_consumers`, `stop_consumers`, `restart_consumer`",
    "sync": "`sync(…)`, `sync_thread`, `observer_thread`, `observe_period`",
    "thread": "`BlockingConsumerThread` and `SelectConsumerThread`",
    "client": "`send_mq_request(…)` and `NeonMQHandler`",
    "callback": "`create_mq_callback(…)`",
    "utils": "`utils` and `config`: the rest",
    "across": "one implementation's clients with the other's services",
}


@dataclass(frozen=True)
class Scenario:
    """A test of one line."""

    line: str
    function: Callable[[Any], None]
    #: Which of its own promises the incumbent breaks here; empty where it keeps them.
    incumbent_fails: str = ""
    #: Whether it depends on speed and luck whether the incumbent breaks it.
    by_chance: bool = False
    #: Whether it talks to a broker, so that it is worth running on several.
    wire: bool = True
    #: Whether it can't do without the transient queues that RabbitMQ 4.3 may deny.
    transient: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass
class _Registry:
    scenarios: dict[str, Scenario] = field(default_factory=dict)


_registry = _Registry()


def scenario(
    line: str,
    *,
    incumbent_fails: str = "",
    by_chance: bool = False,
    wire: bool = True,
    transient: bool = False,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function the scenario of its name; see `Scenario`."""
    assert line in LINES, line

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        name = function.__name__
        assert name not in _registry.scenarios, name
        found = Scenario(line, function, incumbent_fails, by_chance, wire, transient)
        _registry.scenarios[name] = found
        return function

    return register


def scenarios() -> dict[str, Scenario]:
    """All of them, by name."""
    modules = ("api", "consuming", "surviving", "sending", "running", "asking", "helpers", "public")
    for module in modules:
        import_module(f"conformance.scenarios_{module}")
    return _registry.scenarios
