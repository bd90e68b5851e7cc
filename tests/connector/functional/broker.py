"""A private RabbitMQ that tests may stop, kill, freeze and fill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pika
from local import LocalBroker
from quick_start import QuickStart

VHOST = "/test"
#: The vhost and the user of the service that the template generates with its defaults.
SERVICE_VHOST, SERVICE = "/neon_echo", "neon_echo"
SERVICE_QUEUE = f"{SERVICE}_input"
#: May do everything.
USER, PASSWORD = "tester", "pass word"
#: May log in, and nothing else.
POWERLESS = "powerless"
#: May use queues called `input.…` and publish anywhere, but not make other queues.
LIMITED = "limited"
#: What rabbitmqctl prints of a value, in Erlang.
_PRINTED = """lists:flatten(io_lib:format("~tp", [X]))"""
#: Exchange that takes the dead letters of every queue called `input.…`, under the queue's name.
DEAD_LETTERS = "dead letters"


def _definitions() -> dict[str, Any]:
    def permission(name: str, vhost: str, pattern: str, write: str = "") -> dict[str, Any]:
        rights = {"configure": pattern, "write": write or pattern, "read": pattern}
        return {"user": name, "vhost": vhost, **rights}

    def policy(vhost: str, pattern: str, exchange: str) -> dict[str, Any]:
        definition = {"dead-letter-exchange": exchange}
        return {
            "vhost": vhost,
            "name": "dead letters",
            "pattern": pattern,
            "apply-to": "queues",
            "priority": 1,
            "definition": definition,
        }

    exchange = {"auto_delete": False, "durable": True, "internal": False, "arguments": {}}
    dead = f"{SERVICE}_input.dead"
    return {
        # The broker hashes the password itself when it reads this.
        "users": [
            {"name": each, "password": PASSWORD, "tags": ""}
            for each in (USER, POWERLESS, LIMITED, SERVICE)
        ],
        "vhosts": [{"name": VHOST}, {"name": SERVICE_VHOST}],
        "permissions": [
            permission(USER, VHOST, ".*"),
            permission(USER, SERVICE_VHOST, ".*"),
            permission(SERVICE, SERVICE_VHOST, ".*"),
            permission(POWERLESS, VHOST, "^$"),
            permission(LIMITED, VHOST, r"^input\..*", ".*"),
        ],
        "policies": [
            policy(VHOST, r"^input\.[^.]+$", DEAD_LETTERS),
            policy(SERVICE_VHOST, f"^{SERVICE}_input$", dead),
        ],
        "exchanges": [
            {"name": DEAD_LETTERS, "vhost": VHOST, "type": "direct", **exchange},
            {"name": dead, "vhost": SERVICE_VHOST, "type": "fanout", **exchange},
        ],
        "queues": [
            {
                "name": dead,
                "vhost": SERVICE_VHOST,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": "quorum"},
            }
        ],
        "bindings": [
            {
                "source": dead,
                "vhost": SERVICE_VHOST,
                "destination": dead,
                "destination_type": "queue",
                "routing_key": "",
                "arguments": {},
            }
        ],
    }


def _at_once(arguments: tuple[str, ...]) -> str:
    """What one of rabbitmqctl's commands comes to, in Erlang; empty for most of them."""

    def binary(text: str) -> str:
        return f"<<{','.join(map(str, text.encode()))}>>"

    match arguments:
        case "eval", expression:
            return expression.rstrip().removesuffix(".")
        case "set_vm_memory_high_watermark", share if "." in share:
            return f"ok = vm_memory_monitor:set_vm_memory_high_watermark({share})"
        case "close_all_connections", "--vhost", vhost, why:
            connections = f"rabbit_connection_tracking:list({binary(vhost)})"
            return f'ok = rabbit_connection_tracking:close_connections({connections}, "{why}", 0)'
        case "set_permissions", "-p" | "--vhost", vhost, user, *patterns:
            words = ", ".join(map(binary, (user, vhost, *patterns, "rmq-cli")))
            return f"ok = rabbit_auth_backend_internal:set_permissions({words})"
    return ""


class Broker(QuickStart, LocalBroker):
    """A node with the users and vhosts of these tests."""

    #: As Erlang calls it.
    name = "local@localhost"

    def __init__(self, **options: Any) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump(_definitions(), file)
        super().__init__(definitions=Path(file.name), **options)

    def close(self) -> None:
        """End everything and remove the data."""
        super().close()
        self.definitions.unlink(missing_ok=True)

    def ctl(self, *arguments: str, timeout: float = 300.0) -> str:
        """As everywhere, but with the time that it takes on a machine where much else runs.

        The usual commands are given without rabbitmqctl, if the node knows what that would call.
        """
        if expression := _at_once(arguments):
            with contextlib.suppress(AssertionError):
                text = f"X = begin {expression} end,\n{_PRINTED}.\n"
                return self.evaluate(text, timeout)
        return super().ctl(*arguments, timeout=timeout)

    def evaluate(self, expression: str, timeout: float = 60.0) -> str:
        """Evaluate an expression that gives a text, in Erlang, on the node.

        As `ctl eval` does, which starts an Erlang machine of its own: half a second of processor time.
        """
        done = subprocess.run(
            [
                Path(os.path.realpath(self.installation.epmd)).with_name("erl_call"),
                *("-sname", self.name),
                *("-c", (Path(self._environment["HOME"]) / ".erlang.cookie").read_text().strip()),
                "-e",
            ],
            env=self._environment,
            input=expression,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        found = re.fullmatch(r'\{ok, (?:"(.*)"|\[\])\}\s*', done.stdout)
        assert found, f"{expression}: {done.stdout}{done.stderr}"
        return found[1] or ""

    def parameters(
        self, vhost: str = VHOST, user: str = USER, **options: Any
    ) -> pika.ConnectionParameters:
        """How to connect."""
        options.setdefault("port", self.port)
        credentials = pika.PlainCredentials(user, options.pop("password", PASSWORD))
        return pika.ConnectionParameters(
            "127.0.0.1", virtual_host=vhost, credentials=credentials, **options
        )

    def freeze(self) -> None:
        """SIGSTOP: sockets stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid, signal.SIGCONT)
