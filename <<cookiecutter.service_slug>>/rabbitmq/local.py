"""Run a private RabbitMQ with this project's definitions, from an installed rabbitmq-server.

    python rabbitmq/local.py [--port N] [--management] [--data FOLDER]

It runs in the foreground; Ctrl-C stops it, and without --data leaves nothing behind. Tests import it:

    with LocalBroker() as broker:
        connect_to(broker.port)

It knows nothing of a broker that the machine may run anyway: name, ports, cookie, data and log are
its own, everything listens on loopback only, and it ends when the Python that started it does, even
by SIGKILL.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # `python -P` and PYTHONSAFEPATH leave out the script's own folder.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # What root leaves in somebody else's folder, its owner could not remove.
    sys.dont_write_bytecode = True
    # Ctrl-C while the rest loads is an end without a traceback.
    sys.excepthook = lambda kind, error, trace: (
        None if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)
    )

import argparse
import re
import signal
from pathlib import Path

from env_file import EnvFileError, decode, read
from local_node import HERE, LocalBroker, free_port, is_free
from local_server import BrokerError, Installation, NoServer
from owners import NUMBERED

__all__ = ["BrokerError", "Installation", "LocalBroker", "NoServer", "free_port"]

DEFAULT_PORT = 5672
DEFAULT_MANAGEMENT_PORT = 15672


def setting(name: str, default: int) -> int:
    """A port from the environment or from .env, where the service and Docker Compose look as well.

    :raises BrokerError: it is none, or .env can't be read
    """
    settings: dict[str, str] = {}
    try:
        settings = read(decode((HERE.parent / ".env").read_bytes()), os.environ)
    except (FileNotFoundError, IsADirectoryError):
        pass
    except OSError as error:
        raise BrokerError(f".env can't be read ({error.strerror}): check its permissions") from None
    except EnvFileError as error:
        raise BrokerError(f".env: {error}") from None
    text = {**settings, **os.environ}.get(name)
    try:
        return port(text) if text else default
    except argparse.ArgumentTypeError as error:
        raise BrokerError(f"{name} {error}") from None


def port(text: str) -> int:
    """The number in a text.

    :raises argparse.ArgumentTypeError: it isn't that of a port
    """
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError("must be a port number, from 1 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Run the broker until a signal ends it."""
    amqp = options.port or setting("MQ_PORT", DEFAULT_PORT)
    management = options.management and setting("MQ_MANAGEMENT_PORT", DEFAULT_MANAGEMENT_PORT)
    for number, variable in ((amqp, "MQ_PORT"), (management, "MQ_MANAGEMENT_PORT")):
        if number and not is_free(number):
            raise BrokerError(
                f"port {number} is taken, perhaps by another RabbitMQ: stop that, or "
                f"choose another port with {variable}=N in .env"
            )
    broker = LocalBroker(amqp, management=management, data=options.data)
    with broker:
        if broker.left_out:
            keys = ", ".join(broker.left_out)
            version = broker.installation.version
            print(f"of rabbitmq.conf, RabbitMQ {version} doesn't know and goes without: {keys}")
        pages = f", http://127.0.0.1:{management}" if management else ""
        print(
            f"RabbitMQ {broker.installation.version} is ready on localhost:{amqp}{pages} "
            f"(log: {broker.log}); Ctrl-C stops it",
            flush=True,
        )
        broker.wait()


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Run a private RabbitMQ until Ctrl-C.")
    parser.add_argument(
        "--port", type=port, metavar="N", help=f"for AMQP (MQ_PORT, else {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--management",
        action="store_true",
        help=f"management pages too (MQ_MANAGEMENT_PORT, else {DEFAULT_MANAGEMENT_PORT})",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="keep the data there, for the next time"
    )
    options = parser.parse_args()

    if not NUMBERED:
        print("local.py: it doesn't run on Windows: docker compose up, or WSL", file=sys.stderr)
        return 2

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        run(options)
    except KeyboardInterrupt:
        print("RabbitMQ is stopped")
    except BrokerError as error:
        print(f"local.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, NoServer) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
