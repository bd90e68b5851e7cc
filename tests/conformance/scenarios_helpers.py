"""The helpers under `utils` and `config`."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from waiting import eventually

from .checklist import scenario
from .lab import Lab


def _connection_utils(lab: Lab, name: str) -> Any:
    return lab.find(name, "utils.connection_utils")


@scenario("utils", wire=False)
def timeouts_double(lab: Lab) -> None:
    get_timeout = _connection_utils(lab, "get_timeout")
    found = [get_timeout(backoff_factor=0.1, number_of_retries=number) for number in (1, 2, 3)]
    assert found == [0.1, 0.2, 0.4]


@scenario("utils", wire=False)
def a_function_is_tried_again(lab: Lab) -> None:
    calls: list[Any] = []
    failures: list[Any] = []

    def note(*given: Any) -> None:
        failures.append(given)

    @_connection_utils(lab, "retry")(  # type: ignore[untyped-decorator]
        num_retries=3,
        backoff_factor=0.01,
        callback_on_attempt_failure=note,
        callback_on_attempt_failure_args=["e"],
    )
    def work(number: int, factor: int = 1) -> int:
        calls.append(number)
        if len(calls) < 3:
            raise ValueError
        return number * factor

    assert work(2, factor=3) == 6
    assert calls == [2, 2, 2]
    assert len(failures) == 2 and isinstance(failures[0][0], ValueError)


@scenario("utils", wire=False)
def a_function_that_keeps_failing_ends_in_an_error(lab: Lab) -> None:
    retry = _connection_utils(lab, "retry")
    calls: list[int] = []

    @retry(num_retries=2, backoff_factor=0.01)  # type: ignore[untyped-decorator]
    def work() -> None:
        calls.append(1)
        raise ValueError

    try:
        work()
    except RuntimeError:
        assert len(calls) == 2
    else:
        raise AssertionError("no error")


@scenario("utils", wire=False)
def a_method_is_tried_again_with_its_object(lab: Lab) -> None:
    retry = _connection_utils(lab, "retry")

    class Worker:
        calls = 0

        @retry(callback_on_exceeded="give_up", num_retries=2, backoff_factor=0.01, use_self=True)  # type: ignore[untyped-decorator]
        def work(self, fail: bool) -> str:
            self.calls += 1
            if fail:
                raise ValueError
            return "done"

        def give_up(self) -> str:
            return f"gave up after {self.calls}"

    assert Worker().work(False) == "done"
    assert Worker().work(fail=True) == "gave up after 2"


@scenario("utils")
def a_broker_is_waited_for(lab: Lab) -> None:
    lab.hurry()
    wait = lab.find("wait_for_mq_startup", "utils")
    assert wait("127.0.0.1", lab.broker["port"]) is True
    assert wait("127.0.0.1", lab.broker["port"], 5, lab.parameters()) is True
    proxy = lab.proxy()
    assert wait("127.0.0.1", proxy.port, timeout=1) is False
    threading.Timer(0.5, proxy.up).start()
    assert wait("127.0.0.1", proxy.port, timeout=30) is True


@scenario("utils", wire=False, by_chance=True, incumbent_fails="waiting keeps a core busy")
def waiting_keeps_no_core_busy(lab: Lab) -> None:
    made: list[int] = []

    class Counted(socket.socket):
        def __init__(self, *given: Any, **options: Any) -> None:
            made.append(1)
            super().__init__(*given, **options)

    port = lab.proxy().port
    wait = lab.find("wait_for_mq_startup", "utils")
    with mock.patch("socket.socket", Counted):
        wait("127.0.0.1", port, timeout=1)
    assert len(made) < 30


@scenario("utils")
def a_broker_is_checked(lab: Lab) -> None:
    check = _connection_utils(lab, "check_rmq_is_available")
    assert check(lab.parameters()) is True
    assert check(lab.parameters(vhost="/")) is True
    try:
        check(lab.parameters(vhost="/nowhere"))
    except Exception as error:
        assert type(error).__name__ == "ProbableAccessDeniedError"
    else:
        raise AssertionError("access to nowhere")


@scenario("utils")
def a_port_is_checked(lab: Lab) -> None:
    check = lab.find("check_port_is_open", "utils.network_utils")
    assert check("127.0.0.1", lab.broker["port"]) is True
    assert check("127.0.0.1", lab.proxy().port) is False


@scenario("utils", wire=False)
def pika_can_be_silenced(lab: Lab) -> None:
    logger = logging.getLogger("pika")
    logger.setLevel(logging.INFO)
    with _connection_utils(lab, "SuppressPikaLogging")():
        assert logger.level == logging.CRITICAL
    assert logger.level == logging.INFO


@scenario("utils", wire=False)
def a_timer_repeats(lab: Lab) -> None:
    calls: list[int] = []
    timer = lab.find("RepeatingTimer", "utils")(0.02, calls.append, (1,))
    timer.daemon = True
    timer.start()
    eventually(lambda: len(calls) >= 3)
    timer.cancel()
    eventually(lambda: not timer.is_alive())


@scenario("utils", wire=False)
def errors_without_a_handler_are_raised(lab: Lab) -> None:
    try:
        lab.find("default_error_handler", "utils.consumer_utils")("thread", "trouble")
    except Exception as error:
        assert error.args == ("thread", "trouble")
    else:
        raise AssertionError("no error")


@scenario("utils", wire=False)
def a_configuration_object_holds_a_file_or_a_dict(lab: Lab) -> None:
    cls = lab.find("Configuration", "config")
    path = Path(os.environ["CONFORMANCE_FOLDER"], "some.json")
    path.write_text(json.dumps({"a": 1}))
    assert cls(str(path)).config_data == {"a": 1}
    assert cls().from_file(str(path)).config_data == {"a": 1}
    holder = cls().from_dict({"b": 2})
    assert holder.config_data == {"b": 2}
    holder.config_data = {"c": 3}
    assert holder.config_data == {"c": 3}
    try:
        holder.config_data = [1]
    except TypeError:
        return
    raise AssertionError("a list was taken for a dict")


@scenario("utils", wire=False)
def names_are_where_they_are_imported_from(lab: Lab) -> None:
    for module, names in {
        "": ("MQConnector",),
        "connector": ("MQConnector", "ConsumerThread", "ConsumerThreadInstance"),
        "consumers": ("BlockingConsumerThread", "SelectConsumerThread"),
        "consumers.select_consumer": ("SelectConsumerThread",),
        "consumers.blocking_consumer": ("BlockingConsumerThread",),
        "utils": ("RepeatingTimer", "retry", "wait_for_mq_startup"),
        "utils.client_utils": ("NeonMQHandler", "send_mq_request"),
        "utils.network_utils": ("dict_to_b64", "b64_to_dict", "check_port_is_open"),
        "utils.rabbit_utils": ("create_mq_callback",),
        "utils.consumer_utils": ("default_error_handler",),
        "config": ("Configuration", "load_neon_mq_config"),
    }.items():
        for name in names:
            assert getattr(lab.module(module), name)
