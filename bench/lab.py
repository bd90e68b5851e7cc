"""Everything that a measurement needs: the broker, the environments, the service, the requests."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import broker, service
from .compiled import environment
from .contenders import FOLDER, OURS, Contender
from .environment import Environment
from .process import Process
from .service import EVENTS, PACKAGE, QUEUE, Service
from .wire import Address, Client

#: Queue that the client takes its replies from.
REPLIES = "bench_replies"
#: Where durable replies go that nobody has fetched within their second.
EXPIRED = "bench_expired"
#: Deliveries that the broker sends ahead to every contender: the generated service's default.
PREFETCH = 200
#: The text of the reference request, which makes a body of about 250 bytes.
TEXT = "what is the weather like in Kyiv tomorrow"
#: Seconds that a contender has for its first reply.
START = 30.0
#: Seconds of reading between two looks at the clock, and without a reply until a contender counts as
#: done: more than the slowest takes for one.
_SLICE, _SILENCE = 0.02, 2.0
#: Seconds after a last reply in which acknowledgements and the like still cost processor time.
AFTERWARDS = 0.05
#: Seconds that a first reply may take once all is ready.
_FIRST = 10.0
#: Seconds after the first requests, in which it settles how many to have in hand.
SETTLED = 0.3
#: Seconds without a reply after which none is on its way any more.
_QUIET = 0.2


class Lab:
    """One run's broker, service and environments; as a context manager, with the broker running.

    :param folder: the run's own; everything that is made for it goes there
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = Service(folder / service.SLUG)
        self.environments: dict[str, Environment] = {}
        #: Whether this is the short form.
        self.quick = False
        #: Why a peer can't take part, by its name.
        self.missing: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        self.broker, self.address = broker.start(self.service.project, self.folder)
        self._stack.callback(self.broker.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def revive(self) -> None:
        """Start the broker again if a measurement has left it dead."""
        try:
            _ = self.broker.pid
        except Exception:  # the error's class lives in the generated project
            self.broker.start()

    def environment(self, peer: str) -> Environment:
        """The environment of a peer, which has been made before."""
        if peer not in self.environments:
            self.environments[peer] = environment(peer)
        return self.environments[peer]

    def client(self) -> Client:
        """A new connection of the load generator."""
        return Client(self.address)

    def start(
        self,
        contender: Contender,
        *,
        task: str = "echo",
        workers: int = 1,
        durable: bool = False,
        consumers: int = 1,
        queue: str = QUEUE,
        prefetch: int = PREFETCH,
        env: Mapping[str, str] | None = None,
        log: str = "",
        program: Sequence[str] = (),
    ) -> Process:
        """Start a contender on the input queue.

        :param task: what its handler does, see ``contenders/common.py``
        :param workers: handlers at a time
        :param durable: the queue is a durable quorum queue
        :param consumers: queues to consume
        :param queue: the first of them; the others are called after it
        :param log: name of its log, where several of it run
        :param program: another Python to run it on, beside its environment's
        """
        own_program = self.environment(contender.peer).program
        words = {"package": PACKAGE, "workers": str(workers), "prefetch": str(prefetch)}
        command = [
            *(program or [str(own_program)]),
            *(word.format(**words) for word in contender.command),
        ]
        output = self.folder / f"{log or contender.name}.log"
        base = service.environment(self.address.port)
        base["PATH"] = f"{own_program.parent}:{base.get('PATH', '')}"
        if contender.name == OURS:
            base["PYTHONPATH"] = str(self.service.source(task, consumers, queue != QUEUE))
            if workers != 1:
                base["MQ_WORKERS"] = str(workers)
            if prefetch != PREFETCH:
                base["MQ_PREFETCH"] = str(prefetch)
            if consumers != 1 or queue != QUEUE or task == "event":
                # The service's own user may have one queue only, and no exchange.
                base |= {"MQ_USERNAME": self.address.user, "MQ_PASSWORD": self.address.password}
            if queue != QUEUE:
                base["BENCH_QUEUE"] = queue
            return Process(command, {**base, **(env or {})}, self.service.project, output)
        own = {name: value.format(**words) for name, value in contender.env.items()}
        given = _settings(self.address, task, workers, durable, consumers, prefetch)
        given["BENCH_QUEUE"] = queue
        return Process(command, {**base, **own, **given, **(env or {})}, FOLDER, output)

    # ---- queues and requests

    def prepare(self, client: Client, contender: Contender, *, durable: bool = False) -> None:
        """Make the queues anew, empty, of the kind that the contender declares as well."""
        client.delete(QUEUE)
        self.declare(client, QUEUE, contender, durable)
        self.replies(client, durable=durable)

    def replies(self, client: Client, *, durable: bool = False) -> None:
        """Make the queues of replies anew, empty."""
        for queue in (REPLIES, EXPIRED):
            client.delete(queue)
            self.declare(client, queue, None, durable)

    def declare(
        self, client: Client, queue: str, contender: Contender | None, durable: bool
    ) -> None:
        """Make a queue where it is missing; of the contender's kind, if it has one of its own."""
        if contender and contender.queue:
            client.declare(queue, durable=True, arguments=contender.queue)
        else:
            arguments = {"x-queue-type": "quorum"} if durable else {}
            if durable and queue == REPLIES:
                arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": EXPIRED}
            client.declare(queue, durable=durable, arguments=arguments)

    def bodies(self, contender: Contender, count: int, text: str = TEXT) -> Iterator[bytes]:
        """That many requests of the reference job, as the contender wants them."""
        for number in range(count):
            yield request(contender, number, text)[1]

    def drain(
        self,
        contender: Contender,
        bodies: Iterable[bytes],
        count: int,
        limit: float,
        *,
        task: str = "echo",
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
    ) -> dict[str, float]:
        """Give a full queue to a contender that is ready to consume, and count all it does.

        It is frozen while that is filled, so neither its start nor what it reads ahead is left out.

        :param bodies: what to fill it with
        :param count: how many they are
        :param limit: seconds after which enough is seen
        :param task: as for `start`
        :param program: as for `start`
        """
        with self.client() as client, self.client() as reader:
            reader.consume(REPLIES)
            with self.start(contender, task=task, env=env, program=program) as process:
                ready = client.wait_for_consumers(QUEUE, 1, START)
                started, idle = ready - process.began, process.resident()
                process.freeze()
                client.fill(QUEUE, bodies, consumed=True)
                before = process.cpu()
                process.thaw()
                seconds = _read(reader, count, limit)
                seen = reader.replies
                process.check()
                if not seen:
                    raise TimeoutError(f"no reply in {limit:.0f} s")
                answered, after = at_rest(process, reader)
                if seconds < limit and not client.declare(QUEUE, passive=True)[0]:
                    answered = count  # it has done all; some replies have expired on their way
                return {
                    "cpu_us": (after - before) / answered * 1e6,
                    "rate": seen / seconds,
                    "requests": answered,
                    "peak_mb": process.peak(),
                    "consuming_s": started,
                    "idle_mb": idle,
                }

    def handle(
        self,
        contender: Contender,
        count: int,
        *,
        task: str,
        workers: int,
        prefetch: int = PREFETCH,
    ) -> dict[str, float]:
        """Have a contender that runs already handle requests, from the first one to the last reply.

        :param count: requests
        :param task: as for `start`, as `workers` and `prefetch` are
        """
        with self.client() as client, self.client() as reader:
            self.prepare(client, contender)
            reader.consume(REPLIES)
            with self.start(contender, task=task, workers=workers, prefetch=prefetch) as process:
                client.wait_for_consumers(QUEUE, 1, START)
                before, began = process.cpu(), time.monotonic()
                client.fill(QUEUE, self.bodies(contender, count), consumed=True)
                # To the last one: a loop that a handler blocks sends its replies in bursts.
                if reader.count_replies(count, began + START) < count:
                    process.check()
                    raise TimeoutError(f"{reader.replies} of {count} replies after {START:.0f} s")
                seconds = time.monotonic() - began
                time.sleep(AFTERWARDS)
                used = process.cpu() - before
        return {"rate": count / seconds, "cpu_us": used / count * 1e6}

    def acknowledge(
        self, contender: Contender, bodies: Iterable[bytes], count: int, limit: float
    ) -> dict[str, float]:
        """As `drain`, of a contender that sends no replies: what it has taken is gone from the queue."""
        with self.client() as client, self.start(contender) as process:
            client.wait_for_consumers(QUEUE, 1, START)
            process.freeze()
            client.fill(QUEUE, bodies, consumed=True)
            before, began = process.cpu(), time.monotonic()
            process.thaw()
            seconds, left = 0.0, count
            while left and seconds < limit:
                time.sleep(_SLICE)
                left = client.declare(QUEUE, passive=True)[0]
                seconds = time.monotonic() - began
            process.check()
            process.freeze()
            taken = count - left
            return {
                "cpu_us": (process.cpu() - before) / taken * 1e6,
                "rate": taken / seconds,
                "requests": taken,
            }

    def cpu_per_request(
        self, process: Process, client: Client, count: int, limit: float
    ) -> dict[str, float]:
        """Watch a contender drain a queue of that many requests, without its first and last tenth.

        At both ends it is frozen, so that processor time and replies are those of one moment.

        :param limit: seconds after which enough is seen
        """
        client.count_replies(1, time.monotonic() + START)
        process.check()
        if not client.replies:
            raise TimeoutError(f"no reply within {START:.0f} s")
        client.count_replies(count // 10, time.monotonic() + limit / 4)
        first, before = at_rest(process, client)
        process.thaw()
        began = time.monotonic()
        seen = client.count_replies(max(count * 9 // 10, first + 1), began + limit)
        seconds = time.monotonic() - began
        last, after = at_rest(process, client)
        process.check()
        if last <= first:
            raise TimeoutError(f"no reply in {limit:.0f} s after the first {first}")
        return {
            "cpu_us": (after - before) / (last - first) * 1e6,
            "rate": (seen - first) / seconds,
            "requests": last - first,
        }


def _read(reader: Client, count: int, limit: float) -> float:
    """Take that many replies, or those that come within the limit; seconds to the last one.

    Some may never come: a reply that nobody has fetched within its second expires. For the first one
    there is more time, or who sends in large bursts would not be seen at all.
    """
    began = last = time.monotonic()
    first = reader.replies
    while reader.replies < count and last < began + limit:
        seen = reader.replies
        now = time.monotonic()
        reader.count_replies(count, now + _SLICE)
        if reader.replies > seen:
            last = time.monotonic()
        elif now > began + (_FIRST if seen == first else min(limit, last - began + _SILENCE)):
            break
    return last - began


def at_rest(process: Process, client: Client) -> tuple[int, float]:
    """Freeze the process; how many requests it has answered, and the processor time that took.

    Replies may be on their way through the broker, thousands of them where the broker is the slower
    one. Without the freeze their work would count for a moment in which nobody has seen them yet.
    """
    process.freeze()
    seen = -1
    while seen < client.replies:
        seen = client.replies
        client.count_replies(seen + 1_000_000, time.monotonic() + _QUIET)
    return client.replies, process.cpu()


def request(contender: Contender, number: int, text: str = TEXT) -> tuple[bytes, bytes]:
    """A request's id and its body."""
    message_id = uuid.uuid4().hex
    data = {
        "text": text,
        "lang": "en-us",
        "user": "alice",
        "n": number,
        "message_id": message_id,
        "routing_key": REPLIES,
    }
    body = base64.b64encode(json.dumps(str(data)).encode())
    return message_id.encode(), contender.envelope(QUEUE, body)


def _settings(
    address: Address, task: str, workers: int, durable: bool, consumers: int, prefetch: int
) -> dict[str, str]:
    """What ``contenders/common.py`` reads."""
    return {
        "BENCH_HOST": address.host,
        "BENCH_PORT": str(address.port),
        "BENCH_VHOST": address.vhost,
        "BENCH_USER": address.user,
        "BENCH_PASSWORD": address.password,
        "BENCH_EVENTS": EVENTS,
        "BENCH_PREFETCH": str(prefetch),
        "BENCH_WORKERS": str(workers),
        "BENCH_DURABLE": str(int(durable)),
        "BENCH_CONSUMERS": str(consumers),
        "BENCH_TASK": task,
    }
