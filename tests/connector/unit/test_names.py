"""A service's class may be a thread, a process or something else besides: names must not meet."""

from __future__ import annotations

import asyncio
import cmd
import collections
import contextlib
import logging
import multiprocessing
import queue
import socketserver
import threading
import unittest
from typing import Any

import mq_connector.connector
import pytest
from mq_connector.compat.connector import MQConnector
from mq_connector.consumer import ConsumerThread

USERS = {"users": {"mine": {"user": "me", "password": "x"}}}
#: What `threading.Thread` has in any Python from 3.10 to 3.14; this one's are added.
THREADS = {
    "_after_fork",
    "_args",
    "_bootstrap",
    "_bootstrap_inner",
    "_context",
    "_daemonic",
    "_delete",
    "_handle",
    "_ident",
    "_initialized",
    "_invoke_excepthook",
    "_is_stopped",
    "_kwargs",
    "_name",
    "_native_id",
    "_os_thread_handle",
    "_reset_internal_locks",
    "_set_ident",
    "_set_native_id",
    "_set_os_name",
    "_set_tstate_lock",
    "_started",
    "_stderr",
    "_stop",
    "_target",
    "_tstate_lock",
    "_wait_for_tstate_lock",
}
#: The one name that Neon's API has in common with threads, processes and tests.
GIVEN = {"run"}


def names(thing: object, of: tuple[type, ...] = ()) -> set[str]:
    """Names of an instance and its classes; `of` leaves all other classes out."""
    classes = [each for each in type(thing).__mro__ if each in (of or type(thing).__mro__)]
    found = {name for each in classes if each is not object for name in vars(each)}
    found |= set(getattr(thing, "__dict__", ()))
    return {name for name in found if not name.startswith("__")}


def server() -> socketserver.BaseServer:
    return socketserver.BaseServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)


MIXINS = [
    threading.Thread,
    lambda: threading.Timer(1, print),
    multiprocessing.Process,
    multiprocessing.get_context("spawn").Process,
    contextlib.ExitStack,
    contextlib.AsyncExitStack,
    cmd.Cmd,
    collections.UserDict,
    logging.Handler,
    queue.Queue,
    asyncio.Protocol,
    unittest.TestCase,
    server,
]


@pytest.mark.parametrize("mixin", MIXINS)
@pytest.mark.parametrize("base", [mq_connector.connector.MQConnector, MQConnector])
def test_no_name_of_a_connector_is_also_one_of_a_mixin(base: Any, mixin: Any) -> None:
    theirs = names(mixin())
    if "_daemonic" in theirs:
        theirs |= THREADS
    assert names(base(USERS, "mine")) & theirs <= GIVEN


@pytest.mark.parametrize("base", [mq_connector.connector.MQConnector, MQConnector])
def test_no_name_of_a_connector_is_also_one_of_its_own_consumers_thread(base: Any) -> None:
    assert names(base(USERS, "mine")) & THREADS == set()


def test_a_private_name_of_a_moved_services_connector_is_the_incumbents_or_nobodys() -> None:
    """A service has private names of its own: `_lock`, `_running`, `_timer`."""
    base = mq_connector.connector.MQConnector
    inherited = names(base(USERS, "mine"))
    ours = {name for name in names(MQConnector(USERS, "mine")) - inherited if name[0] == "_"}
    incumbents = {"_sync_thread", "_observer_thread"}
    assert {name for name in ours - incumbents if not name.startswith("_mq_")} == set()


def test_a_consumer_shadows_nothing_of_a_thread_but_what_it_means_to() -> None:
    thread = threading.Thread()
    theirs = names(thread) | THREADS
    from mq_connector.compat.consumers.consumer import NeonConsumerThread

    ours = (ConsumerThread, NeonConsumerThread)
    made = {name for each in ours for name in vars(each) if not name.startswith("__")}
    consumer = NeonConsumerThread([], "queue", lambda *_: None)
    made |= set(vars(consumer)) - set(vars(thread))
    assert made & theirs <= {"run", "join", "is_alive"}


def once_called(base: type, *others: type) -> Any:
    class Both(base, *others):  # type: ignore[misc]
        def __init__(self) -> None:
            for each in (*others, base):
                each.__init__(self, *((USERS, "mine") if each is base else ()))  # type: ignore[misc]

        def run(self) -> None:
            assert not self.check_health()

    return Both()


@pytest.mark.parametrize("base", [mq_connector.connector.MQConnector, MQConnector])
@pytest.mark.parametrize(
    "kind",
    [threading.Thread, multiprocessing.get_context("fork").Process],
    ids=lambda kind: kind.__name__,
)
def test_a_connector_may_be_a_thread_or_a_process_as_well(base: type, kind: type) -> None:
    both = once_called(base, kind)
    assert not both.check_health()
    both.start()
    both.join(60)
    assert not both.is_alive()
    assert getattr(both, "exitcode", 0) == 0
    assert both.settings().username == "me"
    both.stop()
