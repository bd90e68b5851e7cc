"""What a service counts, and the port at which it says so."""

from __future__ import annotations

import builtins
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from baked import CONNECTOR
from mq_connector.config import metrics_port
from mq_connector.connection import Connection
from mq_connector.connection.address import Address
from mq_connector.connection.supervised import is_responsive
from mq_connector.errors import ConfigurationError, RetryMessage
from mq_connector.metrics import Metrics
from mq_connector.metrics.endpoint import Endpoint, _Handler
from prometheus_client.parser import text_string_to_metric_families
from running import free_port
from waiting import eventually

from .working import count_handled

#: A queue's name as a label, with what a line of Prometheus' would break at.
QUEUE = 'odd "queue"\\'


class Consumer:
    """A consumer as far as metrics look at it."""

    def __init__(self, queue: str = QUEUE, is_private: bool = False) -> None:
        self.queue = queue
        self.is_private = is_private
        self.is_consuming = True
        self.is_stopping = False
        self.ident: int | None = 1
        self.alive = True
        self.observer: Any = None
        self.connection = Connection(Address([]))

    def is_alive(self) -> bool:
        return self.alive


class Served:
    """Metrics of some consumers, at a port."""

    def __init__(self, *consumers: Consumer) -> None:
        self.consumers = consumers
        self.reason = ""
        self.port = free_port()
        named: Any = {str(number): each for number, each in enumerate(consumers)}
        self.metrics = Metrics(named, lambda done: done(self.reason), self.port)

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
        address = f"http://{host}:{self.port}{path}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def value(self, name: str, **labels: str) -> float:
        """A sample of /metrics."""
        [found] = [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        ]
        return found


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*consumers: Consumer) -> Served:
        made.append(Served(*consumers))
        return made[-1]

    yield start
    for each in made:
        each.metrics.close()


# ---- what is counted


def test_the_time_of_each_callback_is_counted(serve: Callable[..., Served]) -> None:
    consumer = Consumer()
    served = serve(consumer)
    count_handled(consumer.observer, lambda *_: None, b"", b"", b"")
    assert served.value("mq_handler_seconds_count", queue=QUEUE) == 3
    assert served.value("mq_handler_seconds_bucket", queue=QUEUE, le="+Inf") == 3
    assert served.value("mq_messages_failed_total", queue=QUEUE) == 0


def test_a_failed_message_is_counted_and_remembered(serve: Callable[..., Served]) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no\nnew line \x1b[31m")

    consumer = Consumer()
    served = serve(consumer)
    count_handled(consumer.observer, fail, b"x")
    assert served.value("mq_messages_failed_total", queue=QUEUE) == 1
    assert served.value("mq_messages_dead_lettered_total", queue=QUEUE) == 1
    [error] = json.loads(served.get("/errors")[1])
    assert (error["exception"], error["message_id"], error["queue"]) == ("ValueError", "id", QUEUE)
    assert error["text"] == "no\\nnew line \\x1b[31m"


def test_a_message_that_its_callback_has_settled_before_it_failed_is_no_dead_letter(
    serve: Callable[..., Served],
) -> None:
    consumer = Consumer()
    served = serve(consumer)

    def ack_and_fail(channel: Any, *_: Any) -> None:
        channel.basic_ack()
        raise ValueError("late")

    count_handled(consumer.observer, ack_and_fail, b"x")
    assert served.value("mq_messages_failed_total", queue=QUEUE) == 1
    assert served.value("mq_messages_dead_lettered_total", queue=QUEUE) == 0


def test_a_retry_is_counted(serve: Callable[..., Served]) -> None:
    def retry(*_: Any) -> None:
        raise RetryMessage(1)

    consumer = Consumer()
    served = serve(consumer)
    count_handled(consumer.observer, retry, b"x", b"y")
    assert served.value("mq_messages_retried_total", queue=QUEUE) == 2
    assert served.value("mq_messages_failed_total", queue=QUEUE) == 0


def test_the_last_errors_are_few(serve: Callable[..., Served]) -> None:
    def fail(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        raise ValueError(body.decode())

    consumer = Consumer()
    served = serve(consumer)
    count_handled(consumer.observer, fail, *(str(number).encode() for number in range(30)))
    assert [error["text"] for error in json.loads(served.get("/errors")[1])] == [
        str(number) for number in range(20, 30)
    ]


def test_a_queue_that_each_process_names_anew_has_one_label(serve: Callable[..., Served]) -> None:
    served = serve(Consumer("events_0a1b2c", True), Consumer("events_ffffff", True))
    assert served.value("mq_consumer_up", queue="events_") == 2


def test_the_versions_are_told(serve: Callable[..., Served]) -> None:
    served = serve()
    connector = (CONNECTOR / "manifest.sha256").read_text().split()[2]
    python = ".".join(map(str, sys.version_info[:3]))
    assert served.value("mq_build_info", connector=connector, python=python) == 1


# ---- alive, ready


def test_health_and_readiness(serve: Callable[..., Served]) -> None:
    served = serve(Consumer())
    assert served.get("/healthz") == (200, "alive\n")
    assert served.get("/readyz") == (200, "consuming\n")
    served.reason = "no connection"
    assert served.get("/readyz") == (503, "no connection\n")
    assert served.get("/healthz") == (200, "alive\n"), "it depends on the broker"


def test_a_consumer_that_has_ended_is_not_alive(serve: Callable[..., Served]) -> None:
    consumer = Consumer("q")
    served = serve(consumer)
    consumer.alive = False
    assert served.get("/healthz") == (503, "the consumer of 'q' has ended\n")
    consumer.is_stopping = True
    assert served.get("/healthz")[0] == 200


def test_dead_workers_are_not_alive(serve: Callable[..., Served]) -> None:
    consumer = Consumer("q")
    served = serve(consumer)
    consumer.observer.workers = SimpleNamespace(why_unhealthy="no worker is alive")
    assert served.get("/healthz") == (503, "'q': no worker is alive\n")


def test_a_loop_that_hangs_is_not_alive() -> None:
    connection = Connection(Address([]))
    assert is_responsive(connection, 0.1), "it has no loop yet"
    calls: list[Callable[[], object]] = []
    hanging: Any = SimpleNamespace(call=calls.append)
    connection._loop = hanging
    assert not is_responsive(connection, 0.1)
    at_once: Any = SimpleNamespace(call=lambda function: function())
    connection._loop = at_once
    assert is_responsive(connection, 30)


# ---- the port


def test_what_there_is_is_told_to_who_asks_for_something_else(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To each who asks, what he would get: the words of requests are for this machine only."""
    served = serve()
    assert served.get("/") == (404, "there is: /metrics /healthz /readyz /errors\n")
    monkeypatch.setattr(_Handler, "_is_from_here", False)
    assert served.get("/") == (404, "there is: /metrics /healthz /readyz\n")
    assert served.get("/errors") == (404, "there is: /metrics /healthz /readyz\n")


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_words_of_requests_are_for_this_machine_only(address: str, is_here: bool) -> None:
    handler = _Handler.__new__(_Handler)
    handler.client_address = (address, 1)
    assert handler._is_from_here is is_here


def test_a_page_that_fails_is_an_error_and_the_next_one_comes(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer()
    served = serve(consumer)
    with monkeypatch.context() as broken:
        broken.delattr(consumer, "is_consuming")
        assert served.get("/metrics") == (500, "AttributeError, see the log\n")
    assert served.get("/metrics")[0] == 200


def test_who_says_nothing_keeps_nobody_else_waiting(serve: Callable[..., Served]) -> None:
    served = serve()
    silent = [socket.create_connection(("127.0.0.1", served.port), 30) for _ in range(8)]
    try:
        assert served.get("/healthz")[0] == 200
    finally:
        for each in silent:
            each.close()


def test_too_many_who_ask_are_sent_away_and_come_again(serve: Callable[..., Served]) -> None:
    served = serve()
    silent = [socket.create_connection(("127.0.0.1", served.port), 30) for _ in range(20)]
    silent[-1].settimeout(30)
    assert silent[-1].recv(1) == b""
    for each in silent:
        each.close()

    def answers() -> bool:
        try:
            return served.get("/healthz")[0] == 200
        except OSError:
            return False

    eventually(answers, 30, "somebody is answered again")


def test_who_has_found_no_thread_takes_no_place(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        for _ in range(20):
            with pytest.raises(OSError):
                served.get("/healthz")
    assert served.get("/healthz")[0] == 200


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} is taken"):
            Endpoint(port, {})


def test_a_closed_endpoint_leaves_its_port(serve: Callable[..., Served]) -> None:
    served = serve()
    assert served.get("/healthz")[0] == 200
    served.metrics.close()
    with closing(Endpoint(served.port, {})):
        pass


# ---- what it needs


@pytest.mark.parametrize("text", ["x", "0", "70000", "-1"])
def test_what_is_no_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ_METRICS_PORT", text)
    with pytest.raises(ConfigurationError, match="MQ_METRICS_PORT"):
        metrics_port()


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def lacking(name: str, *given: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "prometheus_client":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return really(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    monkeypatch.delitem(sys.modules, "mq_connector.metrics.collector", raising=False)
    with pytest.raises(ConfigurationError) as refused:
        Metrics({}, lambda done: done(""), free_port())
    assert "pip install --editable '.[metrics]'" in str(refused.value)
    assert "--build-arg METRICS=1" in str(refused.value), "and what is done where there is no pip"
    assert "\n" not in str(refused.value)


def test_nothing_is_loaded_where_nobody_asks_for_metrics() -> None:
    code = """
import sys
from mq_connector import MQConnector
service = MQConnector({}, "x")
assert service._serve_metrics() is None
loaded = [name for name in sys.modules if name.startswith(("prometheus", "mq_connector.metrics", "http.server"))]
print(loaded)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=CONNECTOR.parent,
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
