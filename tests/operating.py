"""What the page on operations is tested with: its steps, pasted as they are printed, and a load that keeps count."""

from __future__ import annotations

import json
import logging
import re
import secrets
import subprocess
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pika
from baked import BakedProject, outside
from pages import section
from pika.exceptions import AMQPError

#: Seconds between two requests of the load.
_PACE = 0.01


class Step:
    """A shell block of a page, and what stands below it: what it says."""

    def __init__(self, script: str) -> None:
        self.script = script
        #: What is printed, with `…` for what is left out.
        self.says = ""

    def check(self, output: str) -> None:
        """See that the page says what was said; a figure may be another one.

        :raises AssertionError: a line of the page isn't in the output
        """
        for line in self.says.splitlines():
            if line.strip() not in ("", "…"):
                assert re.search(_pattern(line), output, re.MULTILINE), (
                    f"{self.script}\nthe page promises {line!r}, it says:\n{output}"
                )


def _pattern(line: str) -> str:
    """A regular expression for a printed line: `…` is anything, a number any number, a gap any gap."""
    parts = re.split(r"(…|\d+|\s+)", line.strip())
    special = {"…": ".*"}
    found = (
        special.get(part)
        or (r"\d+" if part.isdigit() else r"\s+" if part.isspace() else re.escape(part))
        for part in parts
    )
    return rf"^\s*{''.join(found)}\s*$"


def steps(page: str, title: str) -> list[Step]:
    """The shell blocks of a section, each with the text below it, in order.

    Text that stands above all of them makes a step without a script.
    """
    found: list[Step] = []
    blocks = re.findall(r"^```(sh|text)\n(.*?)^```", section(page, title), re.MULTILINE | re.DOTALL)
    for language, text in blocks:
        if language == "sh" or not found:
            found.append(Step(text if language == "sh" else ""))
        if language == "text":
            found[-1].says = textwrap.dedent(text)
    return found


def paste(script: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a block as a shell does into which it is pasted: it goes on after a line that fails."""
    return subprocess.run(
        ["bash", "-uc", script],
        cwd=folder,
        env={**outside(), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


class Pauses:
    """Times between one event and the next."""

    def __init__(self) -> None:
        #: Seconds of the longest.
        self.longest = 0.0
        self._last = 0.0

    def end(self) -> None:
        """The next event has come."""
        now = time.monotonic()
        self.longest = max(self.longest, now - (self._last or now))
        self._last = now


class Load:
    """Requests at a steady pace, each sent until the broker has confirmed it.

    :param port: where the broker listens on this machine
    """

    def __init__(self, project: BakedProject, port: int) -> None:
        user = json.loads(project.read("mq_config.json"))["users"]["neon_echo"]
        login = pika.PlainCredentials(user["username"], user["password"])
        self._parameters = pika.ConnectionParameters("127.0.0.1", port, "/neon_echo", login)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._name = secrets.token_hex(4)
        self._count = 0
        #: Ids of the requests that the broker has taken, and of those whose reply has come.
        self.confirmed: list[str] = []
        self.answered: set[str] = set()
        #: When the last confirm came, and the last reply.
        self.confirms, self.replies = Pauses(), Pauses()

    def __enter__(self) -> Load:
        # A broker that isn't there is what is tried here.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)
        logging.getLogger("pika").setLevel(logging.NOTSET)
        assert not self._thread.is_alive(), "the load hangs"

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._send()
            except (AMQPError, OSError):
                self._stopped.wait(0.1)

    def _send(self) -> None:
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            # Another one each time, as what was sent to the last one may come meanwhile.
            replies = f"neon_echo.reply.{secrets.token_hex(16)}"
            channel.queue_declare(replies, exclusive=True)
            channel.basic_consume(replies, self._on_reply, auto_ack=True)
            while not self._stopped.is_set():
                name = f"{self._name}-{self._count}"
                request = {"message_id": name, "routing_key": replies, "text": "hi"}
                properties = pika.BasicProperties(delivery_mode=2, message_id=name)
                body = json.dumps(request).encode()
                channel.basic_publish("", "neon_echo_input", body, properties)
                self.confirmed.append(name)
                self._count += 1
                self.confirms.end()
                connection.process_data_events(_PACE)
            # The last replies are on their way; whatever doesn't come is looked for in the log.
            connection.process_data_events(1.0)

    def _on_reply(
        self, _channel: object, _method: object, _properties: object, body: bytes
    ) -> None:
        self.replies.end()
        self.answered.add(json.loads(body)["message_id"])


def log_entries(log: str) -> list[dict[str, Any]]:
    """The objects of a log in JSON; an engine may put a terminal's escapes in front of them."""
    return [json.loads(line[line.index("{") :]) for line in log.splitlines() if "{" in line]
