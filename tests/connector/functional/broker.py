"""A private RabbitMQ that tests may stop, kill, freeze and fill."""

from __future__ import annotations

import json
import os
import signal
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


class Broker(QuickStart, LocalBroker):
    """A node with the users and vhosts of these tests."""

    def __init__(self, **options: Any) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump(_definitions(), file)
        super().__init__(definitions=Path(file.name), **options)

    def close(self) -> None:
        """End everything and remove the data."""
        super().close()
        self.definitions.unlink(missing_ok=True)

    def ctl(self, *arguments: str, timeout: float = 300.0) -> str:
        """As everywhere, but with the time that it takes on a machine where much else runs."""
        return super().ctl(*arguments, timeout=timeout)

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
