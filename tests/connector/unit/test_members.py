"""Who shares a connection: all hear of its fate, and none pays for another."""

from __future__ import annotations

import threading
import time

import pytest
from mq_connector.connection import Connection
from mq_connector.connection.link import Link
from pika import spec
from waiting import eventually

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import (
    Listener,
    hang_up,
    joined,
    on_loop,
    refuse,
    serve,
    serve_in_haste,
    thread_of,
)


def test_all_share_one_link_and_one_thread() -> None:
    with broker(serve) as server, joined(server, count=5) as members:
        for each in members:
            assert each.wait(1) == ["open"]
        assert len({each.link for each in members}) == 1
        assert server.count == 1
        assert sum(each.name == "mq-io" for each in threading.enumerate()) == 1


def test_who_joins_an_open_connection_is_told_at_once() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        late = Listener(member.connection).join()
        assert late.wait(1) == ["open"]
        assert late.link is member.link
        assert member.events == ["open"], "and nobody else"
        late.quit()


def test_the_last_one_that_leaves_closes_it() -> None:
    said: list[type] = []

    def script(peer: BrokerEnd) -> None:
        peer.open()
        said.append(type(peer.expect(spec.Connection.Close)))
        peer.method(0, spec.Connection.CloseOk())

    with broker(script) as server, joined(server, count=3) as members:
        for each in members:
            each.wait(1)
        connection = members[0].connection
        thread = thread_of(connection)
        for each in members[:2]:
            began = time.monotonic()
            each.quit()
            assert time.monotonic() - began < 1.0, "it waits for nobody"
            assert connection.is_open and not said
        members[2].quit()
        assert said == [spec.Connection.Close]
        assert not connection.is_open and not thread.is_alive()


def test_leaving_twice_and_without_having_joined_harms_nobody() -> None:
    with broker(serve) as server, joined(server, count=2) as members:
        for each in members:
            each.wait(1)
        connection = members[0].connection
        members[0].quit()
        members[0].quit()
        Listener(connection).quit()
        on_loop(connection, lambda: connection.leave(members[0]))
        assert connection.is_open


def test_who_leaves_on_the_loop_does_not_wait_for_it() -> None:
    with broker(serve) as server, joined(server, count=2) as members:
        for each in members:
            each.wait(1)
        on_loop(members[0].connection, members[0].quit)
        on_loop(members[1].connection, members[1].quit)
        eventually(lambda: not members[0].connection.is_open)


def test_who_joins_while_it_closes_gets_another_link() -> None:
    closing, joining = threading.Event(), threading.Event()

    def close_slowly(peer: BrokerEnd) -> None:
        peer.open()
        peer.expect(spec.Connection.Close)
        closing.set()
        joining.wait(PATIENCE)
        peer.method(0, spec.Connection.CloseOk())

    with broker(close_slowly, serve) as server:
        connection = Connection([server.parameters()])
        first = Listener(connection).join()
        first.wait(1)
        connection.call(lambda: connection.leave(first))
        assert closing.wait(PATIENCE)
        second = Listener(connection).join()
        joining.set()
        assert second.wait(1) == ["open"]
        assert second.link is not first.link
        assert first.events == ["open"]
        second.quit()


def test_joining_and_leaving_at_any_moment_ends_in_good_order() -> None:
    with broker(serve_in_haste) as server:
        connection = Connection([server.parameters()])

        def come_and_go(number: int) -> None:
            for step in range(8):
                member = Listener(connection).join()
                if (number + step) % 3:
                    member.wait(1)
                member.quit()

        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        eventually(lambda: connection._loop is None)
        assert not connection._members and not connection._members.greeted


def test_a_loss_is_told_to_all_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with broker(hang_up, serve) as server, joined(server, count=4) as members:
        for each in members:
            assert each.wait(3) == ["open", "lost", "open"]
        assert caplog.text.count("connection lost") == 1
        assert server.count == 2


def test_a_refusal_is_told_to_all() -> None:
    with broker(refuse) as server, joined(server, count=4) as members:
        for each in members:
            [event] = each.wait(1)
            assert event.startswith("refused: ")
        assert server.count == 1


# ---- one member's trouble


def test_a_member_that_loses_its_channel_is_the_only_one_to_notice() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        one, _ = peer.open_channel(), peer.open_channel()
        peer.close_channel(one, 406, "PRECONDITION_FAILED - unknown delivery tag 7")
        peer.open_channel()
        peer.farewell()

    class Channeled(Listener):
        def on_open(self, link: Link) -> None:
            super().on_open(link)
            self.open_channel()

        def open_channel(self) -> None:
            def opened(channel: object) -> None:
                self._hear("channel")

            assert self.link is not None
            channel = self.link.amqp.channel(on_open_callback=opened)
            channel.add_on_close_callback(lambda *_: self._hear("channel lost"))

    with broker(script) as server:
        connection = Connection([server.parameters()])
        one, other = Channeled(connection), Channeled(connection)
        one.join()
        other.join()
        assert one.wait(3) == ["open", "channel", "channel lost"]
        on_loop(connection, one.open_channel)
        assert one.wait(4)[3] == "channel"
        assert other.events == ["open", "channel"]
        one.quit()
        other.quit()


def suspected(others: list[bool]) -> int:
    """How many links there were after one of several members got no answers."""
    with broker(serve) as server, joined(server, count=1 + len(others)) as members:
        for each in members:
            each.wait(1)
        one, *rest = members
        one.is_well = True  # whatever it says of itself
        for member, is_well in zip(rest, others, strict=True):
            member.is_well = is_well
        on_loop(one.connection, lambda: one.connection.suspect(one))
        if not any(others):
            for each in members:
                assert each.wait(3) == ["open", "lost", "open"]
        else:
            time.sleep(0.1)
            assert [each.events for each in members] == [["open"]] * len(members)
        return server.count


@pytest.mark.parametrize("others", [[], [False], [False, False]])
def test_a_peer_that_answers_nobody_is_given_up(others: list[bool]) -> None:
    assert suspected(others) == 2


@pytest.mark.parametrize("others", [[True], [False, True]])
def test_a_peer_that_does_well_by_others_is_kept(others: list[bool]) -> None:
    assert suspected(others) == 1


class Faulty(Listener):
    """Fails whatever it is told."""

    def _hear(self, event: str) -> None:
        super()._hear(event)
        raise RuntimeError(f"a bug at {event!r}")


def test_a_member_that_fails_when_it_is_told_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with broker(hang_up, serve) as server:
        connection = Connection([server.parameters()])
        members = [Listener(connection), Faulty(connection), Listener(connection)]
        for each in members:
            each.join()
        for each in members:
            assert each.wait(3) == ["open", "lost", "open"]
        assert server.count == 2, "the link was given up for it"
        assert "a bug at 'open'" in caplog.text
        for each in members:
            each.quit()


def test_a_refusal_reaches_those_behind_a_member_that_fails() -> None:
    with broker(refuse) as server:
        connection = Connection([server.parameters()])
        members = [Faulty(connection), Listener(connection)]
        for each in members:
            each.join()
        for each in members:
            assert each.wait(1)[0].startswith("refused")
        for each in members:
            each.quit()
        eventually(lambda: connection._loop is None)
