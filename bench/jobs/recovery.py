"""Job 5: the broker is killed and started again while requests come in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..contenders import BY_NAME, OURS, Contender
from ..job import Job, Metric, Values
from ..lab import EXPIRED, REPLIES, START, Lab, request
from ..process import Process
from ..service import QUEUE
from ..wire import Client, WireError

#: Requests per second.
RATE = 300
#: Seconds of load before the kill, of patience afterwards, of load once answers flow again.
BEFORE, PATIENCE, AFTER = 1.0, 16.0, 1.0
_PEERS = (
    "neon-select",
    "neon-blocking",
    "faststream",
    "aio-pika",
    "kombu",
    "nameko",
    "dramatiq",
)


class Load:
    """Requests at a steady rate, with confirms, on connections that are made again."""

    def __init__(self, lab: Lab, contender: Contender, durable: bool) -> None:
        self._lab, self._contender, self._durable = lab, contender, durable
        #: When each request was sent, and which of them the broker has confirmed.
        self.sent: dict[bytes, float] = {}
        self.confirmed: set[bytes] = set()
        #: Replies by request, and when the first came.
        self.replies: Counter[bytes] = Counter()
        self.answered: dict[bytes, float] = {}
        self.publishing, self.reading = True, True
        self._threads = [
            threading.Thread(target=self._again, args=(step,), daemon=True)
            for step in (self._publish, self._read)
        ]

    def start(self) -> None:
        """Begin to send and to read."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both."""
        self.publishing = self.reading = False
        for thread in self._threads:
            thread.join(15)

    def _again(self, step: Callable[[Client], None]) -> None:
        while self.reading:
            with contextlib.suppress(OSError, WireError), Client(self._lab.address, 3) as client:
                step(client)
            time.sleep(0.02)

    def _publish(self, client: Client) -> None:
        if not self.publishing:
            return
        # As Neon's clients do, who declare the queue each time.
        self._lab.declare(client, QUEUE, self._contender, self._durable)
        client.confirm()
        frames = client.publisher(QUEUE, persistent=True)
        keys: list[bytes] = []
        noted = 0
        due = time.monotonic()
        while self.publishing or (noted < len(keys) and time.monotonic() < due + 3):
            if self.publishing:
                key, body = request(self._contender, len(self.sent))
                client.send(frames(body))
                self.sent[key] = time.monotonic()
                keys.append(key)
                due += 1 / RATE
            for _ in client.collect(max(due, time.monotonic())):
                pass
            self.confirmed.update(keys[noted : client.confirmed])
            noted = client.confirmed
            time.sleep(max(0.0, due - time.monotonic()))

    def _read(self, client: Client) -> None:
        self._lab.declare(client, REPLIES, None, self._durable)
        client.consume(REPLIES, acknowledge=True)
        while self.reading:
            self._take(client)

    def _take(self, client: Client) -> None:
        before = client.delivery_tag
        for key in client.collect(time.monotonic() + 0.2):
            if not client.redelivered or not self.replies[key]:
                self.replies[key] += 1
                self.answered.setdefault(key, time.monotonic())
        if client.delivery_tag != before:
            client.ack()

    def take_expired(self) -> None:
        """Count replies that the broker kept over its death, but not for more than their second."""
        with self._lab.client() as client:
            client.consume(EXPIRED, acknowledge=True)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                self._take(client)


class Recovery(Job):
    number = 5
    slug = "recovery"
    title = "The broker is killed and comes back"
    text = (
        f"Under {RATE} requests/s with confirms, the broker gets SIGKILL and is started again on its "
        "data. Seconds from when it accepts connections until the first reply to a request that was "
        "sent after that moment. Queues are durable quorum queues, except for the contenders that "
        "insist on others: neon-mq-connector's forget, and dramatiq's are durable classic ones. "
        "Lost: requests that the broker had confirmed and that got no reply, although the queue was "
        "empty in the end; at this rate next to none wait in it, so a queue that forgets loses few. "
        "Duplicated: requests that got more than one reply."
    )
    left_out = (
        "Left out: the bare loops, which have no way back, and amqpstorm, whose consumer goes on waiting; `send_message` of neon-mq-connector, whose "
        "consumer is that of the others; aio-pika without confirms, which reconnects "
        "as aio-pika does; C and Go, whose libraries leave reconnecting to their users."
    )
    metrics = (
        Metric("answers_s", "s to answers", 2, "lower", plot=True),
        Metric("lost", "lost", 0, "lower"),
        Metric("duplicated", "duplicated", 0, "lower"),
        Metric("confirmed", "of confirmed", 0),
    )
    reference = None

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        return 3 if row == OURS else 1

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, *_PEERS)

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        durable = not row.startswith("neon-")
        with lab.client() as client:
            lab.prepare(client, contender, durable=durable)
            process = lab.start(contender, durable=durable)
        with process:
            with lab.client() as client:
                client.wait_for_consumers(QUEUE, 1, START)
            load = Load(lab, contender, durable)
            load.start()
            try:
                time.sleep(BEFORE)
                if not load.answered:
                    process.check()
                    raise TimeoutError("no reply even before the broker was killed")
                lab.broker.kill()
                lab.broker.start()
                values = watch(load, process)
                time.sleep(AFTER)
                load.publishing = False
                settle(lab, load)
            finally:
                load.stop()
        if durable:
            load.take_expired()
        unanswered = load.confirmed - load.replies.keys()
        values["lost"] = len(unanswered)
        values["duplicated"] = sum(1 for count in load.replies.values() if count > 1)
        values["confirmed"] = len(load.confirmed)
        return values


def watch(load: Load, process: Process) -> dict[str, float]:
    """Wait until answers flow again."""
    up = time.monotonic()
    while time.monotonic() < up + PATIENCE:
        process.check()
        times = [at for key, at in list(load.answered.items()) if load.sent.get(key, 0.0) > up]
        if times:
            return {"answers_s": min(times) - up}
        time.sleep(0.01)
    raise TimeoutError(f"no answer within {PATIENCE:.0f} s after the broker was back")


def settle(lab: Lab, load: Load) -> None:
    """Wait until everything confirmed is answered, or nothing more happens."""
    last, since = -1, time.monotonic()
    while load.confirmed - load.replies.keys():
        time.sleep(0.1)
        if len(load.replies) != last:
            last, since = len(load.replies), time.monotonic()
        ready = 1
        with contextlib.suppress(OSError, WireError), lab.client() as client:
            ready = client.declare(QUEUE, passive=True)[0]
        quiet = time.monotonic() - since
        if (quiet > 3 and not ready) or quiet > 10:
            return
