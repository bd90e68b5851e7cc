"""What can happen to a service: each fault is caused, lasts for a moment, and is over when it returns."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baked import CONNECTOR
from connector.functional.broker import PASSWORD, USER, VHOST, Broker
from connector.functional.peer import Peer
from connector.functional.proxy import Proxy

from .ledger import Ledger
from .service import BAD_ACK

#: The service's program.
SERVICE = Path(__file__).resolve().parent / "service.py"
#: Seconds that a service gets to end after SIGTERM.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Size:
    """What a process occupies: threads, open files (sockets are such), and MiB of memory."""

    threads: int
    files: int
    megabytes: float

    def largest(self, other: Size) -> Size:
        """The larger of each figure."""
        mine, others = vars(self), vars(other)
        return Size(**{name: max(mine[name], others[name]) for name in mine})

    def flat(self, highest: Size) -> bool:
        """Whether it hasn't grown beyond what a reconnect needs for a moment."""
        return (
            highest.threads <= self.threads + 4
            and highest.files <= self.files + 8
            and highest.megabytes <= self.megabytes + 16
        )


class Lab:
    """A broker, a proxy before it, a service behind the proxy, and the load."""

    def __init__(self, broker: Broker, proxy: Proxy, folder: Path) -> None:
        self.broker = broker
        self.proxy = proxy
        self.queue = "input.soak"
        self.log = folder / "service.log"
        self._journal = folder / "journal"
        self._journal.touch()
        self.ledger = Ledger(broker, self.queue, self._journal)
        self._folder = folder
        self._service: subprocess.Popen[bytes] | None = None

    def start_service(self) -> None:
        """Start the service."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MQ_")},
            "PYTHONPATH": str(CONNECTOR.parent),
            "HOME": str(self._folder),
            "XDG_RUNTIME_DIR": str(self._folder),
            "MQ_SERVER": "127.0.0.1",
            "MQ_PORT": str(self.proxy.port),
            "MQ_USERNAME": USER,
            "MQ_PASSWORD": PASSWORD,
            "MQ_QUEUE_TYPE": "quorum",
            "MQ_WORKERS": "8",
        }
        with self.log.open("ab") as log:
            self._service = subprocess.Popen(
                [sys.executable, "-B", str(SERVICE), VHOST, self.queue, str(self._journal)],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def end_service(self, number: signal.Signals) -> int:
        """Send the service a signal; returns its exit code."""
        assert self._service is not None
        self._service.send_signal(number)
        return self._service.wait(_PATIENCE)

    @property
    def service_has_ended(self) -> bool:
        """Whether the service isn't running, which nobody but us may cause."""
        return self._service is not None and self._service.poll() is not None

    @property
    def size(self) -> Size:
        """What the service occupies now."""
        assert self._service is not None
        process = Path("/proc", str(self._service.pid))
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return Size(
            threads=int(status["Threads"]),
            files=len(os.listdir(process / "fd")),
            megabytes=round(int(status["VmRSS"].split()[0]) / 1024, 1),
        )

    def close(self) -> None:
        """End the service."""
        if self._service is not None and self._service.poll() is None:
            self._service.kill()
            self._service.wait()


def broker_killed(lab: Lab, rng: random.Random) -> None:
    # The broker itself loses a quorum queue that was made within the second before it is killed, as
    # after `queue_deleted`.
    time.sleep(1.5)
    lab.broker.kill()
    time.sleep(rng.uniform(0, 1))
    lab.broker.start()


def broker_restarted(lab: Lab, rng: random.Random) -> None:
    lab.broker.stop()
    time.sleep(rng.uniform(0, 1))
    lab.broker.start()


def broker_frozen(lab: Lab, rng: random.Random) -> None:
    lab.broker.freeze()
    time.sleep(rng.uniform(0.2, 3))
    lab.broker.thaw()


def connections_closed(lab: Lab, _rng: random.Random) -> None:
    lab.broker.ctl(
        "eval",
        '[rabbit_networking:close_connection(P, "soak") || P <- rabbit_networking:connections()].',
    )


def memory_alarm(lab: Lab, rng: random.Random) -> None:
    lab.broker.ctl("set_vm_memory_high_watermark", "0.000001")
    time.sleep(rng.uniform(0.2, 1))
    lab.broker.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")


def connection_reset(lab: Lab, _rng: random.Random) -> None:
    lab.proxy.end(reset=True)


def connection_ended(lab: Lab, _rng: random.Random) -> None:
    lab.proxy.end(reset=False)


def half_open(lab: Lab, rng: random.Random) -> None:
    lab.proxy.halt()
    time.sleep(rng.uniform(0.5, 3))
    lab.proxy.end(reset=True)


def slow_link(lab: Lab, rng: random.Random) -> None:
    lab.proxy.slow = (rng.randrange(3, 200), rng.uniform(0.0002, 0.002))
    time.sleep(rng.uniform(0.5, 2))
    lab.proxy.slow = None


def cut_in_mid_stream(lab: Lab, rng: random.Random) -> None:
    """From the first byte of the handshake to the middle of a delivery, or of an ack."""
    for _ in range(rng.randrange(1, 5)):
        limit = rng.randrange(1, rng.choice((600, 6000)))
        if rng.random() < 0.5:
            lab.proxy.cut_down_after = limit
        else:
            lab.proxy.cut_up_after = limit
        lab.proxy.end(reset=True)
        time.sleep(rng.uniform(0.1, 0.6))
        lab.proxy.cut_down_after = lab.proxy.cut_up_after = None


def queue_deleted(lab: Lab, _rng: random.Random) -> None:
    peer = Peer(lab.broker.parameters())
    assert peer.channel.is_open
    lab.ledger.catch_up()
    peer.channel.queue_delete(lab.queue)
    lab.ledger.queue_was_deleted()
    peer.close()


def bad_ack(lab: Lab, _rng: random.Random) -> None:
    peer = Peer(lab.broker.parameters())
    peer.publish(lab.queue, BAD_ACK)
    peer.close()


def service_terminated(lab: Lab, rng: random.Random) -> None:
    code = lab.end_service(signal.SIGTERM)
    assert code == 0, f"the service ended with {code} after SIGTERM"
    time.sleep(rng.uniform(0, 0.5))
    lab.start_service()


def service_killed(lab: Lab, rng: random.Random) -> None:
    lab.end_service(signal.SIGKILL)
    time.sleep(rng.uniform(0, 0.5))
    lab.start_service()


@dataclass(frozen=True)
class Kind:
    """A fault, and how often it comes in comparison with others."""

    name: str
    cause: Callable[[Lab, random.Random], None]
    weight: int


KINDS = (
    Kind("broker: kill -9, start", broker_killed, 3),
    Kind("broker: stop, start", broker_restarted, 3),
    Kind("broker: SIGSTOP, up to 3 s", broker_frozen, 8),
    Kind("broker: closes all connections (320)", connections_closed, 6),
    Kind("broker: memory alarm", memory_alarm, 3),
    Kind("network: reset (RST)", connection_reset, 12),
    Kind("network: ended (FIN)", connection_ended, 10),
    Kind("network: half-open, up to 3 s", half_open, 8),
    Kind("network: slow", slow_link, 8),
    Kind("network: cut after N bytes", cut_in_mid_stream, 12),
    Kind("queue deleted", queue_deleted, 6),
    Kind("channel closed for a bad ack", bad_ack, 8),
    Kind("service: SIGTERM, start", service_terminated, 6),
    Kind("service: SIGKILL, start", service_killed, 7),
)


def plan(seed: int, count: int) -> list[tuple[Kind, int]]:
    """The faults to come, each with a seed of its own: the same ones for the same seed."""
    rng = random.Random(seed)
    kinds = rng.choices(KINDS, [kind.weight for kind in KINDS], k=count)
    return [(kind, rng.getrandbits(32)) for kind in kinds]
