"""A private RabbitMQ node that knows nothing of a broker that the machine may run anyway."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from local_server import BrokerError, Installation

HERE = Path(__file__).resolve().parent
#: Seconds. It takes three on an idle machine, and has taken more than ninety on a busy one.
START_TIMEOUT = 300.0
STOP_TIMEOUT = 30.0
#: Starts, each with other ports if it may choose them, until a taken one is an error.
TRIES = 3
#: Settings of rabbitmq.conf that make no sense here: others are put in their place.
REPLACED = ("listeners.", "management.tcp.", "prometheus.tcp.", "definitions.local.path")
#: What must not reach the broker from our own environment: settings of another one.
FOREIGN = re.compile("RABBITMQ_|ERL_|XDG_|NOTIFY_SOCKET$|HOME$|LC_ALL$")

#: Becomes the Erlang machine, with two companions in its process group. One is a private epmd, which
#: tells rabbitmqctl where the node listens; left to itself, Erlang would start one that stays for
#: ever. The other waits for the end of its standard input, which is that of the Python that holds
#: the other end of the pipe, and then ends the broker and removes its data, if they are temporary.
LAUNCH = """
epmd=$1 server=$2 temporary=$3
exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL $$; sleep 0.2; [ -z "$temporary" ] || rm -rf -- "$temporary"; kill -KILL 0; } &
exec 3<&-
"$epmd" &
until "$epmd" -names >/dev/null 2>&1; do kill -0 $! || exit; sleep 0.02; done
exec "$server"
"""


class LocalBroker:
    """A RabbitMQ node of our own; as a context manager, running inside the block.

    :param port: for AMQP, on 127.0.0.1; 0 takes a free one
    :param definitions: file with users, virtual hosts and so on
    :param conf: its rabbitmq.conf; ports and paths in it are replaced, and keys that the installed
        version doesn't know are left out
    :param management: whether to run the management plugin; a port number, or True for a free one
    :param metrics: the same for the plugin that tells Prometheus of it
    :param data: folder to keep its data in; by default a temporary one
    :raises NoServer: RabbitMQ isn't installed
    """

    def __init__(
        self,
        port: int = 0,
        definitions: Path = HERE / "definitions.json",
        conf: Path = HERE / "rabbitmq.conf",
        management: bool | int = False,
        metrics: bool | int = False,
        data: Path | None = None,
    ) -> None:
        self.installation = Installation()
        self.definitions, self.conf = Path(definitions), Path(conf)
        self._wanted = port, management, metrics
        self._choose_ports()
        #: Whether somebody may know the ports that were chosen, so that no others can be.
        self._is_known = False
        self._temporary = None
        if data is None:
            self._temporary = tempfile.TemporaryDirectory(
                prefix="rabbitmq-", ignore_cleanup_errors=True
            )
            data = Path(self._temporary.name)
        self.data = data.resolve()
        # It pastes this path into a shell command (`df`), and hangs where that goes wrong.
        if odd := set(str(self.data)) & set("'\"`$\\"):
            raise BrokerError(f"{self.data}: RabbitMQ can't have its data below a {odd.pop()}")
        #: What it prints; the interesting thing when it doesn't start.
        self.log = self.data / "broker.log"
        #: Keys of rabbitmq.conf that the installed version doesn't know.
        self.left_out: list[str] = []
        self._log_begin = 0
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def _choose_ports(self) -> None:
        """Take free ones where none were given."""
        port, management, metrics = self._wanted
        self.port = port or free_port()
        #: Of the HTTP API; None without it.
        self.management_port = _port_of(management)
        #: Of the pages for Prometheus; None without them.
        self.metrics_port = _port_of(metrics)

    def __enter__(self) -> LocalBroker:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of the Erlang machine's process.

        :raises BrokerError: it isn't running
        """
        if self._process is None or self._process.poll() is not None:
            raise BrokerError("the broker isn't running")
        return self._process.pid

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start it, again on the same data if it ran before; returns once it takes connections.

        :param timeout: seconds
        :raises BrokerError: it doesn't start, with what it complains of
        """
        for left in reversed(range(TRIES)):
            try:
                self._start(timeout)
                break
            except BrokerError as error:
                # A port was free when it was chosen, and isn't any more when the broker comes to it.
                if self._is_known or not left or "eaddrinuse" not in str(error):
                    raise
                self._choose_ports()
        self._is_known = True

    def _start(self, timeout: float) -> None:
        self._prepare()
        keep = "" if self._temporary is None else str(self.data)
        server = self.installation.scripts / "rabbitmq-server"
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", LAUNCH, "launch", self.installation.epmd, str(server), keep],
                env=self._environment,
                cwd=self.data,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of the terminal's reach: it is us who take a Ctrl-C, and then stop it in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        try:
            while not speaks_amqp(self.port):
                if self._process.poll() is not None:
                    raise BrokerError(f"RabbitMQ has ended by itself:\n{self._complaint()}")
                if time.monotonic() > deadline:
                    raise BrokerError(f"no RabbitMQ after {timeout:g} s:\n{self._complaint()}")
                time.sleep(0.02)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop it in order; its data stay. Without effect if it isn't running.

        :param timeout: seconds until it is killed instead
        """
        if self._process is None:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGCONT):  # It may have been suspended.
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, as by a loss of power (SIGKILL); its data stay as they are."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def close(self) -> None:
        """Stop it and remove its data, unless they were given a folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def wait(self) -> None:
        """Wait until it ends by itself, which it shouldn't.

        :raises BrokerError: it has ended
        """
        if self._process is not None:
            self._process.wait()
        raise BrokerError(f"RabbitMQ has ended by itself:\n{self._complaint()}")

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run rabbitmqctl on this node and return what it prints; it takes about a second.

        :param timeout: seconds
        :raises BrokerError: the command fails
        """
        command = [str(self.installation.scripts / "rabbitmqctl"), "--quiet", *arguments]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                cwd=self.data,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise BrokerError(f"rabbitmqctl {arguments[0]}: no end after {timeout:g} s") from None
        if done.returncode:
            raise BrokerError(f"rabbitmqctl {arguments[0]}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _prepare(self) -> None:
        """Write the files that it starts from."""
        if self._process is not None and self._process.poll() is None:
            raise BrokerError("the broker is running already")
        self.kill()  # What it has left behind, should it have ended by itself.
        if not self.definitions.is_file():
            raise BrokerError(f"{self.definitions} is missing: run `python rabbitmq/provision.py`")
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "conf.d").mkdir(exist_ok=True)
        ports = {"management": self.management_port, "prometheus": self.metrics_port}
        plugins = ",".join(f"rabbitmq_{name}" for name, port in ports.items() if port is not None)
        (self.data / "enabled_plugins").write_text(f"[{plugins}].\n", encoding="utf-8")
        # A copy beside its data, so that no path with odd characters goes into a configuration file.
        copy = self.data / "definitions.json"
        copy.touch(mode=0o600)
        copy.chmod(0o600)  # It may be there already, in a folder of one's own.
        try:
            shutil.copyfile(self.definitions, copy)
        except PermissionError:
            raise BrokerError(f"{self.definitions} may not be read by this user") from None
        lines = "\n".join([*self._settings(), ""])
        (self.data / "rabbitmq.conf").write_text(lines, encoding="utf-8")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not FOREIGN.match(name)},
            "LC_ALL": "C.UTF-8",
            "ERL_CRASH_DUMP_SECONDS": "0",  # A dump of a failed start takes its time and helps nobody.
            "HOME": str(self.data),  # For the cookie, the secret that rabbitmqctl shares with it.
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "local@localhost",
            # RabbitMQ finds itself named, so it doesn't look for others of that name (half a second).
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-sname local@localhost -start_epmd false "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            # Its start script then becomes the Erlang machine instead of waiting for it as its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.data / "conf.d"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data / "node"),
            "RABBITMQ_LOG_BASE": str(self.data / "log"),
        }

    def _settings(self) -> Iterator[str]:
        """Lines of rabbitmq.conf for here."""
        self.left_out.clear()
        for line in self.conf.read_text(encoding="utf-8").splitlines():
            key = line.partition("=")[0].strip()
            if not key or key.startswith(("#", *REPLACED)):
                continue
            if self.installation.knows(key):
                yield line
            else:
                self.left_out.append(key)
        yield "definitions.local.path = definitions.json"
        yield f"listeners.tcp.1 = 127.0.0.1:{self.port}"
        for name, port in (("management", self.management_port), ("prometheus", self.metrics_port)):
            if port is not None:
                yield f"{name}.tcp.ip = 127.0.0.1"
                yield f"{name}.tcp.port = {port}"

    def _complaint(self) -> str:
        """Its first errors since it was started, or else the last that it has printed."""
        text = self.log.read_bytes()[self._log_begin :].decode("utf-8", "replace")
        lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines() if line.strip()]
        errors = re.findall(r"\[error\] <[\d.]+> +(\S.*)", "\n".join(lines))
        return "\n".join(errors[:5] or lines[-5:]) or "it has printed nothing"


def _port_of(wanted: bool | int) -> int | None:
    if wanted is True:
        return free_port()
    return wanted or None


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, from below those that outgoing connections get:
    so it stays free while a broker is down."""
    while True:
        port = random.randint(20000, 30000)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def speaks_amqp(port: int) -> bool:
    """Whether a broker greets there: its first frame is of type 1, a method (AMQP 0-9-1, 4.2.3)."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 5) as connection,
    ):
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(1) == b"\x01"
    return False
