"""What a scenario has at hand: one implementation, a broker, a peer, a proxy that can be cut."""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pika
from connector.functional.proxy import Proxy
from incumbent import GaveNothing, tried
from pika.exceptions import ChannelClosedByBroker
from waiting import eventually

from .subject import CONNECTOR, TESTS

#: The implementations, by the package that their names are in.
PACKAGES = {"incumbent": "neon_mq_connector", "ours": "mq_connector.compat"}
#: The service's and the client's key under ``users``.
SERVICE, CLIENT = "conformance", "mq_handler"


def encode(data: Mapping[Any, Any]) -> bytes:
    """A body as Neon's peers write it, made without either implementation."""
    return base64.b64encode(json.dumps(str(data)).encode())


def decode(body: bytes) -> dict[Any, Any]:
    """Read such a body."""
    data: dict[Any, Any] = ast.literal_eval(json.loads(base64.b64decode(body)))
    return data


class PlainClient:
    """A client on pika and nothing else, with a connection of its own."""

    def __init__(self, parameters: pika.ConnectionParameters, denies: bool = False) -> None:
        #: What queues are declared with, if nothing else is said.
        self._options = {"durable": True} if denies else {}
        self.connection = pika.BlockingConnection(parameters)
        self.channel = self.connection.channel()

    def declare(self, queue: str, **options: Any) -> str:
        """Declare a queue, plainly unless `options` say otherwise."""
        chosen = options if options.get("exclusive") else {**self._options, **options}
        name: str = self.channel.queue_declare(queue, **chosen).method.queue
        return name

    def send(self, queue: str, data: Mapping[Any, Any] | bytes, exchange: str = "") -> None:
        """Publish."""
        body = data if isinstance(data, bytes) else encode(data)
        self.channel.basic_publish(exchange, queue, body)

    def get(self, queue: str) -> tuple[pika.BasicProperties, bytes] | None:
        """The next message of a queue, if there is one."""
        method, properties, body = self.channel.basic_get(queue, auto_ack=True)
        return (properties, body) if method and properties and body is not None else None

    def take(self, queue: str, within: float | None = None) -> tuple[pika.BasicProperties, bytes]:
        """The next message of a queue."""
        found: tuple[pika.BasicProperties, bytes] = eventually(
            lambda: self.get(queue), within, f"a message in {queue}"
        )
        return found

    def ask(
        self, queue: str, within: float | None = None, exclusive: bool = False, **data: Any
    ) -> dict[Any, Any]:
        """Send a request, and return its reply."""
        replies = self.declare(f"replies_{uuid.uuid4().hex}", exclusive=exclusive)
        self.send(queue, {"message_id": uuid.uuid4().hex, **data, "routing_key": replies})
        return decode(self.take(replies, within)[1])

    def exists(self, queue: str) -> bool:
        """Whether there is such a queue."""
        channel = self.connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def count(self, queue: str) -> int:
        """Messages that are ready in a queue."""
        found: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return found


class Lab:
    """One scenario's surroundings.

    :param kind: ``incumbent`` or ``ours``
    :param broker: port, vhost, user and password
    :param ask_host: has the test process do something with the broker
    """

    def __init__(
        self, kind: str, broker: Mapping[str, Any], ask_host: Callable[[str], None]
    ) -> None:
        self.kind = kind
        self.broker = broker
        self.vhost: str = broker["vhost"]
        #: Whether the broker denies transient queues.
        self.denies: bool = broker.get("denies", False)
        self.ask_host = ask_host
        self._closing: list[Callable[[], object]] = []

    # ---- the implementation

    def module(self, name: str = "") -> Any:
        """One of its modules: ``connector``, ``utils.network_utils``, …"""
        return import_module(".".join(filter(None, (PACKAGES[self.kind], name))))

    def find(self, name: str, module: str = "connector") -> Any:
        """One of its names."""
        return getattr(self.module(module), name)

    @property
    def other(self) -> str:
        """The other implementation's kind."""
        return "ours" if self.kind == "incumbent" else "incumbent"

    def hurry(self) -> None:
        """Shorten the incumbent's pauses, which are not what is tested."""
        if self.kind == "incumbent":
            self._replace(self.module("utils.connection_utils"), "get_timeout", lambda **_: 0.05)
            reconnect = self.find("SelectConsumerThread", "consumers").reconnect
            self._replace(reconnect, "__defaults__", (0.3,))

    def _replace(self, holder: Any, name: str, value: Any) -> None:
        before = getattr(holder, name)
        setattr(holder, name, value)
        self.closing(lambda: setattr(holder, name, before))

    # ---- the broker

    def config(self, port: int | None = None, **changes: Any) -> dict[str, Any]:
        """A configuration, with the users' names as the incumbent reads them."""
        user = {"user": self.broker["user"], "password": self.broker["password"]}
        users = {SERVICE: user, CLIENT: user}
        return {
            "server": "127.0.0.1",
            "port": port or self.broker["port"],
            "users": users,
            **changes,
        }

    def parameters(self, port: int | None = None, **options: Any) -> pika.ConnectionParameters:
        """pika's parameters."""
        credentials = pika.PlainCredentials(self.broker["user"], self.broker["password"])
        return pika.ConnectionParameters(
            "127.0.0.1",
            port or self.broker["port"],
            options.pop("vhost", self.vhost),
            credentials,
            **options,
        )

    def proxy(self) -> Proxy:
        """A way to the broker that can be cut; down at first."""
        proxy = Proxy(self.broker["port"])
        proxy.down()
        self.closing(proxy.down)
        return proxy

    def peer(self) -> PlainClient:
        """A plain client."""
        peer = PlainClient(self.parameters(), self.denies)
        self.closing(peer.connection.close)
        return peer

    @staticmethod
    def name(what: str = "queue") -> str:
        """A name that nobody else uses."""
        return f"conformance_{what}_{uuid.uuid4().hex[:10]}"

    # ---- connectors and consumers

    def connector(self, cls: Any = None, config: Any = None, name: str = SERVICE) -> Any:
        """A connector to the broker's vhost, stopped at the end."""
        connector = (cls or self.find("MQConnector"))(config or self.config(), name)
        connector.vhost = self.vhost
        self.closing(connector.stop)
        return connector

    def run(self, connector: Any, **options: Any) -> Any:
        """Run one, and wait until it consumes."""
        connector.run(
            **{"run_sync": False, "mq_timeout": 30, "daemonize_consumers": True, **options}
        )
        self.consumes(*connector.consumers.values())
        return connector

    def consumes(self, *consumers: Any) -> None:
        """Wait until they consume.

        The incumbent says so as soon as its channel is open, before there is a queue; and hangs where it
        is stopped by then. So the broker is asked.
        """
        for each in consumers:
            eventually(lambda: each.is_consuming, what=f"it consumes {each.queue!r}")  # noqa: B023
        if self.kind == "incumbent":
            connection = pika.BlockingConnection(self.parameters())
            for each in consumers:
                what = f"somebody consumes {each.queue!r}"
                eventually(lambda: _consumed(connection, each.queue), what=what, every=0.02)  # noqa: B023
            connection.close()

    def consume(self, callback: Callable[..., Any], queue: str = "", **options: Any) -> Any:
        """A running connector with one consumer, called ``it``; its queue is `queue`."""
        connector = self.connector(options.pop("cls", None), options.pop("config", None))
        queue = queue or self.name()
        connector.register_consumer("it", connector.vhost, queue, callback, **options)
        connector.queue = queue
        return self.run(connector)

    def thread(self, callback: Callable[..., Any], *rest: Any, **options: Any) -> Any:
        """A consumer thread, not started; `cls` names its class."""
        cls = self.find(options.pop("cls", "SelectConsumerThread"), "consumers")
        parameters = options.pop("connection_params", None) or self.parameters()
        thread = cls(parameters, options.pop("queue", self.name()), callback, *rest, **options)
        thread.daemon = True
        self.closing(lambda: thread.is_alive() and thread.join(3))
        return thread

    # ---- the other implementation, in a process of its own

    def client_of(self, kind: str, queue: str, requests: list[dict[Any, Any]], **how: Any) -> Any:
        """Have `send_mq_request` of one kind ask; returns the replies."""
        return _run("ask", kind, self._configured(), self.vhost, queue, repr(requests), repr(how))

    def send_with(self, kind: str, messages: list[dict[Any, Any]], **where: Any) -> Any:
        """Have `send_message` of one kind send; returns the messages' ids."""
        return _run("send", kind, self._configured(), self.vhost, repr(messages), repr(where))

    @contextlib.contextmanager
    def service_of(self, kind: str, queue: str) -> Iterator[Callable[[], Any]]:
        """An echo service of one kind, for the length of the block.

        What comes with the block waits for the next body that the service has been given.
        """
        command = [*_command(kind), "serve", kind, self.vhost, queue]
        environment = _environment(self._configured())

        def start(seconds: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            timer = threading.Timer(seconds, process.kill)
            timer.start()
            try:
                _wait_for("ready", process)
            except GaveNothing:
                process.kill()
                process.communicate()
                raise
            finally:
                timer.cancel()
            return process

        process = tried(kind, start)
        try:
            yield lambda: ast.literal_eval(_wait_for("HEARD ", process))
        finally:
            process.kill()
            process.communicate()

    def configure(self) -> None:
        """Have `send_mq_request` find its configuration."""
        os.environ["NEON_MQ_CONFIG_PATH"] = self._configured()
        if self.kind == "incumbent":
            # Its clients look for it elsewhere than its services.
            clients = self.module("utils.client_utils")
            self._replace(clients, "Configuration", lambda: {"MQ": self.config()})

    def _configured(self) -> str:
        path = Path(os.environ["CONFORMANCE_FOLDER"], f"{uuid.uuid4().hex}.json")
        path.write_text(json.dumps(self.config()), encoding="utf-8")
        return str(path)

    # ---- the end

    def closing(self, function: Callable[[], object]) -> None:
        """Call something at the end."""
        self._closing.append(function)

    def close(self) -> None:
        """End all that the scenario has begun."""
        for function in reversed(self._closing):
            # The incumbent's ends are not always quiet, and what they say isn't what is tested.
            with contextlib.suppress(Exception):
                function()


def _wait_for(word: str, process: subprocess.Popen[str]) -> str:
    """What a process says next behind a word."""
    for line in process.stdout or ():
        if word in line:
            return line.partition(word)[2]
    raise GaveNothing(f"the service has ended before it said {word!r}")


def _consumed(connection: pika.BlockingConnection, queue: str) -> bool:
    channel = connection.channel()
    try:
        count: int = channel.queue_declare(queue, passive=True).method.consumer_count
    except ChannelClosedByBroker as error:
        return error.reply_code == 405  # an exclusive one is there; nobody else learns more
    channel.close()
    return count > 0


def _command(kind: str) -> list[str]:
    """This module as a program in an implementation's environment."""
    return [os.environ[f"CONFORMANCE_PYTHON_{kind}"], "-B", "-m", __name__]


def _environment(configuration: str) -> dict[str, str]:
    """For that program."""
    path = os.pathsep.join([str(CONNECTOR.parent), str(TESTS)])
    return {**os.environ, "NEON_MQ_CONFIG_PATH": configuration, "PYTHONPATH": path}


def _run(what: str, kind: str, configuration: str, *words: str) -> Any:
    command = [*_command(kind), what, kind, *words]
    environment = _environment(configuration)

    def once(seconds: float) -> Any:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        )
        line = done.stdout.rsplit("RESULT ", 1)
        if len(line) != 2:
            raise GaveNothing(f"{what}: {done.stdout[-500:]} {done.stderr[-1500:]}")
        return ast.literal_eval(line[1])

    return tried(kind, once)


def _ask(kind: str, vhost: str, queue: str, requests: str, how: str) -> None:
    configuration = json.loads(Path(os.environ["NEON_MQ_CONFIG_PATH"]).read_text())
    clients = import_module(f"{PACKAGES[kind]}.utils.client_utils")
    if kind == "incumbent":
        clients.Configuration = lambda: {"MQ": configuration}  # type: ignore[attr-defined]
    options = {"timeout": 30, **ast.literal_eval(how)}
    replies = [
        clients.send_mq_request(vhost, request, queue, **options)
        for request in ast.literal_eval(requests)
    ]
    print("RESULT " + repr(replies), flush=True)


def _send(kind: str, vhost: str, messages: str, where: str) -> None:
    connector = import_module(f"{PACKAGES[kind]}.connector").MQConnector(
        json.loads(Path(os.environ["NEON_MQ_CONFIG_PATH"]).read_text()), SERVICE
    )
    connector.vhost = vhost
    options = ast.literal_eval(where)
    ids = [connector.send_message(each, **options) for each in ast.literal_eval(messages)]
    print("RESULT " + repr(ids), flush=True)


def _serve(kind: str, vhost: str, queue: str) -> None:
    package = PACKAGES[kind]
    base = import_module(f"{package}.connector").MQConnector
    decorate = import_module(f"{package}.utils.rabbit_utils").create_mq_callback

    class Echo(base):  # type: ignore[misc,valid-type]
        @decorate()  # type: ignore[untyped-decorator]
        def handle(self, body: dict[Any, Any]) -> dict[Any, Any]:
            print("HEARD " + repr(body), flush=True)
            return {"echo": body.get("data")}

    service = Echo(json.loads(Path(os.environ["NEON_MQ_CONFIG_PATH"]).read_text()), SERVICE)
    service.vhost = vhost
    service.register_consumer("it", service.vhost, queue, service.handle)
    service.run(run_sync=False)
    eventually(lambda: service.consumers["it"].is_consuming)
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"ask": _ask, "send": _send, "serve": _serve}
    commands[sys.argv[1]](*sys.argv[2:])
    os._exit(0)
