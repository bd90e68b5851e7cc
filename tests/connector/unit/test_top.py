"""What `top` makes of the numbers that processes tell, whoever they are."""

from __future__ import annotations

import io
import math
import socket
from typing import Any

import pytest
from mq_connector.commands.command_line import _place
from mq_connector.commands.top.replica import (
    Address,
    Failure,
    Replica,
    Sample,
    parse,
    quantile,
    resolve,
)
from mq_connector.commands.top.screen import drawn
from mq_connector.commands.top.view import (
    QUEUE_COLUMNS,
    REPLICA_COLUMNS,
    Depth,
    Row,
    View,
    view,
)
from mq_connector.metrics import Metrics
from rich.console import Console
from running import free_port

from .test_metrics import Consumer
from .working import count_handled

QUEUE = 'odd "queue"\\'


def seen(replicas: list[Replica], width: int = 200, **depths: Depth) -> str:
    """What a terminal shows."""
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(drawn(view("echo", replicas, depths, "RabbitMQ 4", ""), width))
    console.file.close()
    return console.export_text()


def test_what_a_process_tells_is_read_as_it_was_meant() -> None:
    consumer: Any = Consumer(QUEUE)
    port = free_port()
    metrics = Metrics({"q": consumer}, lambda done: done(""), port)
    replica = Replica(Address("127.0.0.1", port))
    try:
        replica.ask()
        count_handled(consumer.observer, fail, b"x", b"y")
        replica.ask()
    finally:
        metrics.close()
    assert replica.trouble == ""
    assert replica.now is not None
    assert replica.now.queues == [QUEUE]
    assert replica.now.value("mq_messages_failed_total", QUEUE) == 2
    rate = replica.rate("mq_messages_failed_total", QUEUE)
    assert rate is not None and rate > 0
    assert replica.grown("mq_handler_seconds", QUEUE)[-1] == (math.inf, 2)
    assert [each.what for each in replica.failures] == ["ValueError: it fails"] * 2
    assert "ValueError: it fails" in seen([replica])


def fail(*_: Any) -> None:
    raise ValueError("it fails")


def test_a_process_that_was_started_anew_has_no_rate_yet() -> None:
    replica = Replica(Address("h", 1))
    replica.before = parse('mq_messages_received_total{queue="q"} 100', 1.0)
    replica.now = parse('mq_messages_received_total{queue="q"} 3', 2.0)
    assert replica.rate("mq_messages_received_total", "q") is None


@pytest.mark.parametrize(
    "line",
    ["", "# HELP mq_x", "mq_x", "mq_x{", 'mq_x{queue="q} 1', "mq_x one", "other 1", "mq_x{} 1 2 3"],
)
def test_what_isn_t_in_order_is_left_out(line: str) -> None:
    assert parse(line, 0.0).values == {}


def test_labels_are_what_they_were_before_they_were_written() -> None:
    page = 'mq_consumer_up{queue="a\\\\n\\"b\\n"} 1'
    assert parse(page, 0.0).queues == ['a\\n"b\n']


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, [], None),
        (0.5, [(0.1, 0.0), (math.inf, 0.0)], None),
        (0.5, [(0.1, 10.0), (math.inf, 10.0)], 0.05),
        (0.5, [(0.1, 0.0), (0.2, 10.0), (math.inf, 10.0)], 0.15),
        (0.9, [(0.1, 1.0), (math.inf, 10.0)], 0.1),
    ],
)
def test_a_quantile_is_reckoned_as_prometheus_does(
    share: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    found = quantile(share, buckets)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_name_that_stands_for_several_processes_is_each_of_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def known(*_: Any, **__: Any) -> list[Any]:
        four = [(socket.AF_INET, 1, 6, "", (host, 9464)) for host in ("10.0.0.2", "10.0.0.1")]
        return [(socket.AF_INET6, 1, 6, "", ("::1", 9464, 0, 0)), *four, *four]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    assert resolve("service", 9464) == [Address("10.0.0.1", 9464), Address("10.0.0.2", 9464)]


def test_who_isn_t_a_service_says_what_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    replica = Replica(Address("127.0.0.1", port))
    replica.ask()
    assert replica.trouble == "Connection refused"
    text = seen([replica])
    assert "0 of 1 processes answer" in text
    assert "Connection refused" in text


def test_no_text_gives_the_terminal_orders() -> None:
    """Neither escapes nor what rich itself takes for orders."""
    replica = Replica(Address("h", 1))
    replica.now = Sample(1.0, {("mq_consumer_up", "[red]q[/red]\x1b[2J"): 1.0}, {}, "1[bold]")
    replica.failures = [Failure("now", "[blink]q", "ValueError: [/red] [link=x]y[/link]", "m")]
    text = seen([replica])
    for each in ("[red]q[/red]\\x1b[2J", "1[bold]", "[blink]q", "[/red] [link=x]y[/link]"):
        assert each in text
    assert "\x1b" not in text


def test_numbers_of_all_processes_are_added() -> None:
    replicas = []
    for number in (1, 2):
        replica = Replica(Address("h", number))
        for at in (1.0, 2.0):
            page = "\n".join(
                f'{name}{{queue="q"}} {value}'
                for name, value in {
                    "mq_consumer_up": 1,
                    "mq_messages_received_total": at * 10,
                    "mq_messages_in_flight": 3,
                    "mq_workers": 4,
                    "mq_workers_busy": 2,
                }.items()
            )
            replica.before, replica.now = replica.now, parse(page, at)
        replicas.append(replica)
    [row] = view("echo", replicas, {"q": Depth(5, 2, 0)}, "", "").queues
    assert row.cells[:5] == ("q", "5", "2", "0", "20.0")
    assert row.cells[-2:] == ("6", "4 of 8")
    assert not row.is_bad


def test_dead_letters_and_no_consumer_are_bad() -> None:
    [row] = view("echo", [], {"q": Depth(0, 1, 1)}, "", "").queues
    assert row.is_bad
    [row] = view("echo", [], {"q": Depth(0, 0, 0)}, "", "").queues
    assert row.is_bad


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("host", ("host", 0)),
        ("host:9464", ("host", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("[::1]", ("::1", 0)),
        ("10.0.0.1", ("10.0.0.1", 0)),
    ],
)
def test_where_to_ask(text: str, place: tuple[str, int]) -> None:
    assert _place(text) == place


def test_an_ipv6_address_is_written_with_brackets() -> None:
    assert str(Address("::1", 9464)) == "[::1]:9464"


def of_twenty(height: int | None, width: int, bad: set[int]) -> str:
    """What a terminal shows of twenty processes and an error."""
    rows = [
        Row(
            (f"10.0.0.{number:02}:9100", "refused", "5 s", *("-" for _ in REPLICA_COLUMNS[3:])),
            number in bad,
        )
        for number in range(20)
    ]
    queue = Row(("input", *("0" for _ in QUEUE_COLUMNS[1:])))
    failure = Failure("12:00:00", "input", "ValueError: x", "1")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(drawn(View("echo", "RabbitMQ", False, [queue], rows, [failure]), width, height))
    return console.export_text()


def test_what_is_wrong_is_on_a_screen_that_has_no_room_for_all_processes() -> None:
    seen = of_twenty(24, 80, {3, 18})
    assert len(seen.splitlines()) <= 24
    assert "ValueError: x" in seen and "10.0.0.03" in seen and "10.0.0.18" in seen
    assert f"and {20 - seen.count('10.0.0.')} more" in seen
    assert "of them not well" in of_twenty(17, 80, set(range(20)))
    for height in (None, 100):
        everything = of_twenty(height, 80, {3})
        assert everything.count("10.0.0.") == 20 and "more" not in everything


def test_no_heading_is_broken_on_a_narrow_screen() -> None:
    seen = of_twenty(24, 40, set())
    for name in ("queue", "ready", "dead", "workers", "process"):
        assert name in seen
    assert len(seen.splitlines()) <= 24 and "10.0.0.00:9100" in seen and "refused" in seen
