"""A connector's life: run, outages, timers, stop."""

from __future__ import annotations

import time
from typing import Any

from waiting import eventually

from .checklist import scenario
from .lab import Lab, decode
from .scenarios_consuming import Taken


@scenario("run")
def a_connector_runs_and_stops(lab: Lab) -> None:
    taken = Taken()
    connector = lab.connector()
    queue = lab.name()
    connector.register_consumer("it", connector.vhost, queue, taken)
    connector.run(run_sync=False, mq_timeout=30)
    assert connector.started is True
    eventually(connector.check_health)
    lab.consumes(connector.consumers["it"])
    lab.peer().send(queue, {})
    taken.eventually(1)
    connector.stop()
    assert connector.started is False
    assert connector.check_health() is False
    assert not connector.consumers["it"].is_consuming


@scenario("run")
def the_hooks_see_what_run_was_given(lab: Lab) -> None:
    calls: list[Any] = []

    class Hooked(lab.find("MQConnector")):  # type: ignore[misc]
        def pre_run(self, **kwargs: Any) -> None:
            calls.append(("pre", self.started, kwargs))
            self.register_consumer("it", self.vhost, lab.name(), Taken())

        def post_run(self, **kwargs: Any) -> None:
            calls.append(("post", None, kwargs))

    connector = lab.connector(Hooked)
    connector.run(run_sync=False, mq_timeout=30, colour="blue", daemonize_consumers=True)
    assert [call[:2] for call in calls] == [("pre", False), ("post", None)]
    assert all(call[2]["colour"] == "blue" for call in calls)
    lab.consumes(connector.consumers["it"])


@scenario("run")
def only_the_named_consumers_run(lab: Lab) -> None:
    connector = lab.connector()
    for name in ("one", "two"):
        connector.register_consumer(name, connector.vhost, lab.name(), Taken())
    connector.run(run_sync=False, mq_timeout=30, consumer_names=("two",), daemonize_consumers=True)
    lab.consumes(connector.consumers["two"])
    assert not connector.consumers["one"].is_consuming
    assert connector.consumers["two"].daemon is True


@scenario("run")
def consumers_can_be_left_for_later(lab: Lab) -> None:
    connector = lab.connector()
    connector.register_consumer("it", connector.vhost, lab.name(), Taken())
    connector.run(run_consumers=False, run_sync=False, mq_timeout=30)
    assert not connector.consumers["it"].is_consuming
    connector.run_consumers()
    lab.consumes(connector.consumers["it"])


@scenario("run")
def a_broker_that_is_down_is_no_error(lab: Lab) -> None:
    lab.hurry()
    proxy = lab.proxy()
    taken = Taken()
    connector = lab.connector(config=lab.config(proxy.port))
    queue = lab.name()
    connector.register_consumer("it", connector.vhost, queue, taken)
    connector.run(run_sync=False, mq_timeout=0.5, daemonize_consumers=True)
    assert connector.started is False
    assert connector.check_health() is False
    proxy.up()
    connector.run(run_sync=False, mq_timeout=30, daemonize_consumers=True)
    assert connector.started is True
    eventually(connector.check_health)
    lab.consumes(connector.consumers["it"])
    lab.peer().send(queue, {})
    taken.eventually(1)


@scenario("run", incumbent_fails="after its retries `run()` returns as if nothing were wrong")
def refused_credentials_are_an_error(lab: Lab) -> None:
    lab.hurry()
    config = lab.config()
    for user in config["users"].values():
        user["password"] = "wrong"
    connector = lab.connector(config=config)
    connector.register_consumer("it", connector.vhost, lab.name(), Taken())
    try:
        connector.run(run_sync=False, mq_timeout=2)
    except Exception as error:
        assert lab.broker["password"] not in str(error)
    else:
        raise AssertionError("nothing was said")


@scenario(
    "run", incumbent_fails="`started` and `check_health()` stay true while nothing is consumed"
)
def health_says_when_nothing_is_consumed(lab: Lab) -> None:
    lab.hurry()
    proxy = lab.proxy()
    proxy.up()
    connector = lab.connector(config=lab.config(proxy.port))
    connector.register_consumer(
        "it", connector.vhost, lab.name(), Taken(), on_error=lambda *_: None
    )
    lab.run(connector)
    assert connector.check_health() and connector.started
    proxy.down()
    eventually(lambda: not connector.check_health() and not connector.started)
    proxy.up()
    eventually(lambda: connector.check_health() and connector.started)


# ---- consumers


@scenario("consumers")
def consumers_run_and_stop_by_name(lab: Lab) -> None:
    connector = lab.connector()
    for name in ("one", "two"):
        connector.register_consumer(name, connector.vhost, lab.name(), Taken())
    connector.run_consumers(("one",))
    one, two = connector.consumers["one"], connector.consumers["two"]
    lab.consumes(one)
    assert not two.is_consuming and two.is_consumer_alive
    connector.run_consumers()
    lab.consumes(one, two)
    connector.stop_consumers(("one",))
    assert not one.is_consumer_alive and not one.is_consuming
    assert two.is_consuming
    assert connector.consumer_properties["one"]["started"] is False
    assert connector.consumer_properties["two"]["started"] is True
    connector.stop_consumers()
    assert not two.is_consuming


@scenario("consumers")
def a_restarted_consumer_consumes_again(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    before = connector.consumers["it"]
    connector.restart_consumer("it")
    assert connector.consumers["it"] is not before
    assert connector.consumer_properties["it"]["num_restarted"] == 1
    lab.consumes(connector.consumers["it"])
    lab.peer().send(connector.queue, {})
    taken.eventually(1)


@scenario("consumers")
def restarts_are_counted(lab: Lab) -> None:
    connector = lab.consume(Taken(), restart_attempts=1)
    for _ in range(3):
        if "it" in connector.consumers:
            connector.restart_consumer("it")
            lab.consumes(*connector.consumers.values())
    assert "it" not in connector.consumers
    assert connector.consumer_properties["it"]["dead"] is True
    assert connector.check_health() is False


@scenario("consumers")
def a_consumer_of_an_exclusive_queue_is_not_restarted(lab: Lab) -> None:
    connector = lab.consume(Taken(), queue_exclusive=True)
    connector.restart_consumer("it")
    assert "it" not in connector.consumers
    assert connector.consumer_properties["it"]["dead"] is True


# ---- timers


@scenario("sync")
def a_sync_message_reaches_an_exchange(lab: Lab) -> None:
    exchange = lab.name("exchange")
    taken = Taken()
    connector = lab.connector()
    connector.register_subscriber("it", connector.vhost, taken, exchange=exchange)
    lab.run(connector)
    connector.sync(exchange=exchange)
    connector.sync(connector.vhost, exchange, None, {"state": "well"})
    taken.eventually(2)
    first, second = map(decode, taken)
    assert first["service_id"] == connector.service_id
    assert abs(first["time"] - time.time()) < 60
    assert second["state"] == "well"


@scenario("sync", incumbent_fails="`sync()` computes a queue's name and drops it")
def a_sync_message_reaches_its_queue(lab: Lab) -> None:
    connector = lab.connector()
    peer = lab.peer()
    queue = lab.name()
    peer.declare(f"{queue}_sync")
    connector.sync(queue=queue)
    assert decode(peer.take(f"{queue}_sync")[1])["service_id"] == connector.service_id


@scenario("sync", wire=False)
def timers_are_there_when_asked_for(lab: Lab) -> None:
    timer = lab.find("RepeatingTimer", "utils.thread_utils")
    connector = lab.connector()
    connector.sync_period = 50
    connector.observe_period = 60
    for thread, period in ((connector.sync_thread, 50), (connector.observer_thread, 60)):
        assert isinstance(thread, timer)
        assert thread.interval == period
        assert thread.daemon
    running = connector.sync_thread
    running.start()
    assert connector.sync_thread is running
    connector.stop_sync_thread()
    eventually(lambda: not running.is_alive())
    connector.stop_observer_thread()


@scenario("sync")
def run_starts_the_timers_that_it_is_told_to(lab: Lab) -> None:
    connector = lab.connector()
    connector.sync_period = connector.observe_period = 50
    connector.run(run_sync=True, run_observer=True, mq_timeout=30)
    assert connector.sync_thread.is_alive()
    assert connector.observer_thread.is_alive()
    sync, observer = connector.sync_thread, connector.observer_thread
    connector.stop()
    eventually(lambda: not sync.is_alive() and not observer.is_alive())


@scenario("sync")
def the_observer_restarts_what_is_dead(lab: Lab) -> None:
    connector = lab.consume(Taken())
    before = connector.consumers["it"]
    before.join(30)
    assert not before.is_consumer_alive
    connector.observe_consumers()
    assert connector.consumers["it"] is not before
    lab.consumes(connector.consumers["it"])
