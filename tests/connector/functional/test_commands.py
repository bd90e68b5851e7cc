"""What the commands tell an operator, on a broker in each condition that they should know of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from local import free_port
from mq_connector import ConsumerThread, MQConnector
from mq_connector.commands import dead, doctor, letters, request
from mq_connector.commands.letters import DeadLetter
from mq_connector.commands.session import Session
from mq_connector.errors import NotConnected, RequestTimeout
from waiting import eventually

from .broker import LIMITED, PASSWORD, USER, VHOST, Broker
from .dead_letters import service
from .peer import Peer


@pytest.fixture
def examine(
    broker: Broker, queue: str, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`python -m … doctor`; returns what it says."""

    def examine(port: int = broker.port, **consumers: ConsumerThread) -> list[str]:
        examined = service(port, queue)
        examined.consumers.update(consumers)
        code = doctor.examine(examined)
        lines = capsys.readouterr().out.splitlines()
        assert code == any(line.startswith("FAIL") for line in lines)
        return lines

    return examine


# ---- hosts


def test_the_doctor_names_each_host_that_doesnt_answer(
    broker: Broker, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    down = free_port()
    user = {"username": USER, "password": PASSWORD}
    server = f"127.0.0.1:{down}, 127.0.0.1:{broker.port}, localhost:{broker.port}"
    made = MQConnector({"server": server, "users": {"mine": user}}, service_name="mine")
    made.vhost = VHOST
    assert doctor.examine(made) == 0, "one that answers is enough"
    first, *others = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "27.0.0" in line or "localhost:" in line
    ]
    assert first.startswith("ok    broker: RabbitMQ ")
    assert f" at 127.0.0.1:{broker.port}, logged in, vhost" in first
    assert others[0] == (
        f"note  no connection to 127.0.0.1:{down}: connection refused; "
        "the service does without it while another answers"
    )
    assert others[1].endswith(f" at localhost:{broker.port}, logged in")


@pytest.mark.parametrize(
    ("server", "hint"),
    [
        ("127.0.0.1", "is RabbitMQ running? .*make broker"),
        ("mq.invalid", "does a broker run there? MQ_SERVER and MQ_PORT, or else mq_config.json"),
        ("127.0.0.1,mq.invalid", "does a broker run there?"),
    ],
)
def test_where_no_broker_answers_the_doctor_says_where_to_look(
    capsys: pytest.CaptureFixture[str], server: str, hint: str
) -> None:
    """Only a broker on this machine may be one that the repository starts."""
    config = {
        "server": server,
        "port": free_port(),
        "users": {"mine": {"username": "a", "password": "b"}},
    }
    made = MQConnector(config, service_name="mine")
    made.vhost = VHOST
    assert doctor.examine(made) == 1
    failed = capsys.readouterr().out.splitlines()[-1]
    assert failed.startswith("FAIL  no connection to ")
    beginning, _, rest = hint.partition(" .*")
    assert beginning in failed and rest in failed
    assert ("docker compose" in failed) == ("invalid" not in server)


# ---- queues


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param({}, "transient classic", id="as Neon's clients declare it"),
        pytest.param({"durable": True}, "classic", id="durable"),
        pytest.param(
            {"durable": True, "arguments": {"x-queue-type": "quorum"}}, "quorum", id="quorum"
        ),
        pytest.param(
            {"durable": True, "arguments": {"x-queue-type": "stream"}}, "stream", id="stream"
        ),
    ],
)
def test_the_doctor_says_of_what_kind_a_queue_is(
    peer: Peer,
    queue: str,
    examine: Callable[..., list[str]],
    options: dict[str, Any],
    kind: str,
) -> None:
    peer.declare(queue, **options)
    assert f"ok    queue: {queue!r}, {kind}, 0 ready, 0 consumers" in examine()


def test_to_look_at_a_queue_that_has_just_gone_makes_none(
    broker: Broker, peer: Peer, queue: str
) -> None:
    looking = service(broker.port, queue)
    with Session(looking.address()) as session:
        assert session.run(doctor._kind(queue)) == "of unknown kind"
    assert not peer.has(queue)


def test_the_doctor_names_no_queue_that_only_another_process_has(
    broker: Broker, peer: Peer, queue: str, examine: Callable[..., list[str]]
) -> None:
    class Subscriber(ConsumerThread):
        is_private = True

    def subscriber(name: str) -> ConsumerThread:
        return Subscriber(broker.parameters(), name, lambda *_: None)

    peer.declare(queue)
    said = examine(
        drawn=subscriber("subscriber_news_0a1b2c"), fixed=subscriber("mine, exclusively")
    )
    assert "note  queue 'subscriber_news_…' is each process's own; health knows of it" in said
    assert "note  queue 'mine, exclusively' is each process's own; health knows of it" in said
    assert "0a1b2c" not in "".join(said)


# ---- a broker that takes no messages

LETTER = DeadLetter(1, pika.BasicProperties(), b"{}", 0)


_ALARMS = {
    "memory": ("vm_memory_high_watermark", "0.000001", "0.9"),
    "disk": ("disk_free_limit", "900000GB", "50MB"),
}


@pytest.fixture
def short_of(
    victim: Broker, examine: Callable[..., list[str]], request: pytest.FixtureRequest
) -> Iterator[str]:
    """What the broker is short of: it has raised an alarm, and says so to those who publish."""
    setting, tight, usual = _ALARMS[request.param]
    victim.ctl(f"set_{setting}", tight)
    try:
        eventually(lambda: "takes no messages" in "".join(examine(victim.port)), what="the alarm")
        yield request.param
    finally:
        victim.ctl(f"set_{setting}", usual)


def alarm(short_of: str) -> str:
    return f"the broker takes no messages: low on {short_of} (resource alarm)"


@pytest.mark.parametrize("short_of", _ALARMS, indirect=True)
def test_the_doctor_names_an_alarm(
    victim: Broker, short_of: str, examine: Callable[..., list[str]]
) -> None:
    [said] = [line for line in examine(victim.port) if "takes no messages" in line]
    assert said.startswith(f"FAIL  {alarm(short_of)}; ")


@pytest.mark.parametrize("short_of", ["memory"], indirect=True)
def test_commands_that_an_alarm_has_stopped_say_so(
    victim: Broker, short_of: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = service(victim.port, queue)
    with pytest.raises(RequestTimeout) as raised:
        request.ask(asking, "{}", 0.5)
    assert str(raised.value) == f"no reply from {queue!r} within 0.5 s: {alarm(short_of)}"

    monkeypatch.setattr(dead, "_CONFIRM_WITHIN", 0.5)
    monkeypatch.setattr(letters.DeadLetterQueue, "__iter__", lambda _: iter([LETTER]))
    with pytest.raises(NotConnected) as told:
        dead.show(asking, True)
    assert str(told.value).endswith(f"; {alarm(short_of)}")


def test_without_an_alarm_none_is_named(
    peer: Peer, broker: Broker, queue: str, examine: Callable[..., list[str]]
) -> None:
    peer.declare(queue)
    assert "ok    publishing: the broker takes messages" in examine()
    with pytest.raises(RequestTimeout) as raised:
        request.ask(service(broker.port, queue), "{}", 0.3)
    nobody = "; nobody consumes it: start the service"
    assert str(raised.value) == f"no reply from {queue!r} within 0.3 s{nobody}"
    peer.channel.basic_consume(queue, lambda *_: None)
    with pytest.raises(RequestTimeout) as raised:
        request.ask(service(broker.port, queue), "{}", 0.3)
    assert str(raised.value) == f"no reply from {queue!r} within 0.3 s", (
        "somebody does, and is slow"
    )


def test_a_broker_that_goes_at_the_doctor_s_last_steps_is_a_finding_like_any_other(
    peer: Peer, queue: str, examine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> str:
        raise NotConnected("the connection was lost")

    peer.declare(queue)
    monkeypatch.setattr(doctor, "alarm", gone)
    said = examine()
    assert "FAIL  the connection was lost" in said
    assert "health: " in said[-1]


def test_who_may_not_publish_is_told_so(
    broker: Broker, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The replies go through the default exchange."""
    user = {"username": LIMITED, "password": PASSWORD}
    made = MQConnector(
        {"port": broker.port, "server": "127.0.0.1", "users": {"mine": user}}, service_name="mine"
    )
    made.vhost = "/test"
    broker.ctl("set_permissions", "-p", "/test", LIMITED, r"^input\..*", r"^input\..*", ".*")
    try:
        assert doctor.examine(made) == 1
    finally:
        broker.ctl("set_permissions", "-p", "/test", LIMITED, r"^input\..*", ".*", r"^input\..*")
    said = capsys.readouterr().out
    assert "FAIL  user may not publish (403 ACCESS_REFUSED" in said
    assert "grant write on amq.default" in said


def test_a_broker_that_has_no_connection_left_is_not_taken_for_one_that_is_down(
    victim: Broker, queue: str, examine: Callable[..., list[str]]
) -> None:
    first = Peer(victim.parameters())
    _ = first.channel
    victim.ctl("set_vhost_limits", "-p", "/test", '{"max-connections": 1}')
    try:
        *_, failed = examine(victim.port)
    finally:
        victim.ctl("clear_vhost_limits", "-p", "/test")
        first.close()
    assert failed.endswith("connection limit (1) is reached")
    assert "is RabbitMQ running" not in failed
