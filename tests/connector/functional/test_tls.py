"""TLS: verified, as fast as without, and a wrong certificate is said in one line at the start."""

from __future__ import annotations

import datetime
import json
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from baked import BakedProject
from local import NoServer, free_port
from mq_connector import ConsumerThread, MQConnector, payload
from mq_connector.config import Limits
from mq_connector.config import load as load_settings
from mq_connector.connection.address import parameters as parameters_of
from waiting import eventually

from .broker import PASSWORD, SERVICE, USER, VHOST, Broker
from .conftest import Consume, Record, echo
from .peer import Peer
from .process import Service, unable
from .proxy import Proxy

pytestmark = pytest.mark.timeout(300)


class Secure(Broker):
    """A broker with a TLS port, which also takes a client's certificate for a login."""

    further_plugins = ("rabbitmq_auth_mechanism_ssl",)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tls_port = free_port()
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.folder = folder
        self.ca, self.wrong_ca = folder / "ca.pem", folder / "wrong-ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.stranger.cert_pem.write_to_path(str(self.wrong_ca))
        self.certificate, self.key = self.issue("server", "localhost")

    def issue(self, name: str, host: str, **options: Any) -> tuple[Path, Path]:
        """Make a certificate; returns its file and that of its key."""
        issued = self.authority.issue_cert(host, **options)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def listen(self, certificate: Path, key: Path) -> int:
        """Another TLS port, with another certificate; returns its number."""
        port = free_port()
        options = f'[{{certfile, "{certificate}"}}, {{keyfile, "{key}"}}]'
        listener = f'{{"127.0.0.1", {port}}}'
        self.ctl("eval", f"rabbit_networking:start_ssl_listener({listener}, {options}, 1).")
        return port

    def _settings(self) -> Iterator[str]:
        yield from super()._settings()
        yield f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}"
        yield f"ssl_options.cacertfile = {self.ca}"
        yield f"ssl_options.certfile = {self.certificate}"
        yield f"ssl_options.keyfile = {self.key}"
        yield "ssl_options.verify = verify_peer"
        yield "ssl_options.fail_if_no_peer_cert = false"
        for number, mechanism in enumerate(("PLAIN", "AMQPLAIN", "EXTERNAL"), 1):
            yield f"auth_mechanisms.{number} = {mechanism}"
        yield "ssl_cert_login_from = common_name"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Such a broker, and a dead-letter queue for the service."""
    try:
        broker = Secure(tmp_path_factory.mktemp("tls"))
    except NoServer as error:
        pytest.skip(str(error))
    with broker:
        yield broker


Make = Callable[..., Service]


@pytest.fixture
def make(project: BakedProject, tmp_path: Path, secure: Secure) -> Iterator[Make]:
    """A service with this `tls` in its configuration."""
    made: list[Service] = []

    def make(
        tls: Any, port: int = 0, server: str = "localhost", password: str | None = PASSWORD
    ) -> Service:
        folder = tmp_path / f"run-{len(made)}"
        folder.mkdir()
        service = Service(project, folder, port or secure.tls_port, PASSWORD)
        config = json.loads(service.config.read_text(encoding="utf-8"))
        config["server"] = server
        if tls is not None:
            config["tls"] = tls
        if password is None:
            del config["users"][SERVICE]["password"]
        service.config.write_text(json.dumps(config), encoding="utf-8")
        made.append(service)
        return service

    yield make
    for service in made:
        service.end()


def works(service: Service, secure: Secure) -> None:
    """Assert that the service answers, and that nobody reads its password."""
    process = service.start(LOG_LEVEL="DEBUG")
    done = service.command("request", '{"text": "hi"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["echo"] == {"text": "hi"}
    doctor = service.command("doctor")
    assert doctor.returncode == 0, doctor.stdout
    process.terminate()
    assert process.wait(60) == 0
    for said in (service.said, done.stderr, doctor.stdout, doctor.stderr):
        assert PASSWORD not in said
        assert "BEGIN" not in said


def test_with_the_right_authority_it_answers(make: Make, secure: Secure) -> None:
    works(make({"ca": str(secure.ca)}), secure)


def test_only_who_turns_verification_off_talks_to_a_stranger(make: Make, secure: Secure) -> None:
    works(make({"ca": str(secure.wrong_ca), "verify": False}), secure)


def test_a_client_s_certificate_is_a_login(make: Make, secure: Secure) -> None:
    certificate, key = secure.issue("client", "client.test", common_name=SERVICE)
    tls = {"ca": str(secure.ca), "cert": str(certificate), "key": str(key)}
    works(make(tls, password=None), secure)


def test_a_client_s_certificate_for_nobody_is_refused(make: Make, secure: Secure) -> None:
    certificate, key = secure.issue("nobody", "nobody.test", common_name="nobody")
    tls = {"ca": str(secure.ca), "cert": str(certificate), "key": str(key)}
    service = make(tls, password=None)
    line = unable(service, service.start(healthy=False))
    assert "refuses our certificate" in line


def test_an_authority_that_we_do_not_trust_ends_it_with_one_line(
    make: Make, secure: Secure, record: Record
) -> None:
    for tls in (True, {"ca": str(secure.wrong_ca)}):
        service = make(tls)
        line = unable(service, service.start(healthy=False), record, "TLS, wrong authority")
        assert "certificate isn't trusted" in line
        doctor = service.command("doctor")
        assert doctor.returncode == 1 and "certificate isn't trusted" in doctor.stdout
        asking = service.command("request", "{}")
        assert asking.returncode == 1 and len(asking.stderr.splitlines()) == 1
        assert "certificate isn't trusted" in asking.stderr


def test_another_host_s_certificate_ends_it_with_one_line(make: Make, secure: Secure) -> None:
    service = make({"ca": str(secure.ca)}, server="127.0.0.1")
    line = unable(service, service.start(healthy=False))
    assert "127.0.0.1" in line and "mismatch" in line


def test_an_expired_certificate_ends_it_with_one_line(make: Make, secure: Secure) -> None:
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    port = secure.listen(
        *secure.issue(
            "old", "localhost", not_before=yesterday - datetime.timedelta(9), not_after=yesterday
        )
    )
    service = make({"ca": str(secure.ca)}, port=port)
    assert "expired" in unable(service, service.start(healthy=False))


def test_tls_on_the_plain_port_ends_it_with_one_line(make: Make, secure: Secure) -> None:
    service = make({"ca": str(secure.ca)}, port=secure.port)
    line = unable(service, service.start(healthy=False))
    assert "TLS" in line and "port" in line


def test_plain_text_on_the_tls_port_ends_it_with_one_line(make: Make, secure: Secure) -> None:
    service = make(None)
    line = unable(service, service.start(healthy=False))
    assert "AMQP" in line and "port" in line


@pytest.mark.parametrize("key", ["ca", "cert"])
def test_a_certificate_that_is_none_ends_it_with_one_line(
    make: Make, tmp_path: Path, key: str
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    for text in (None, "", "certainly not"):
        if text is not None:
            nonsense.write_text(text, encoding="ascii")
        service = make({key: str(nonsense)})
        line = unable(service, service.start(healthy=False))
        assert f"tls: {nonsense}" in line


def where(secure: Secure, port: int = 0, **tls: Any) -> list[Any]:
    """Parameters for a consumer, from a configuration with TLS."""
    config = {
        "server": "localhost",
        "port": port or secure.tls_port,
        "users": {"mine": {"username": USER, "password": PASSWORD}},
        "tls": {"ca": str(secure.ca), **tls},
    }
    return parameters_of(load_settings("mine", config), VHOST, "mine")


def test_bursts_are_joined_into_one_record(
    secure: Secure, queue: str, consume: Consume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 replies and acks in a fraction of as many sends, each of which encrypts a record."""
    peer = Peer(secure.parameters())
    replies = peer.declare(f"{queue}.replies")
    peer.declare(queue)
    for number in range(1000):
        peer.publish(queue, {"n": number, "routing_key": replies})
    sizes: list[int] = []
    send = ssl.SSLSocket.send

    def count(self: ssl.SSLSocket, data: bytes, flags: int = 0) -> int:
        sizes.append(len(data))
        return send(self, data, flags)

    monkeypatch.setattr(ssl.SSLSocket, "send", count)
    # A reply expires after a second, so each is taken as it comes.
    came: list[bytes] = []
    peer.channel.basic_consume(replies, lambda *given: came.append(given[3]), auto_ack=True)
    consume(echo, at=where(secure))

    def all_came() -> bool:
        peer.channel.connection.process_data_events(0.05)
        return len(came) >= 1000

    eventually(all_came, what=lambda: f"{len(came)} came")
    assert sorted(payload.decode(body)["echo"]["n"] for body in came) == list(range(1000))
    assert len(sizes) < 200, f"{len(sizes)} sends for 1000 replies and acks"
    peer.close()


def test_large_bodies_pass_in_both_directions(secure: Secure, queue: str, consume: Consume) -> None:
    """Far more than a TLS record, and than the socket takes at once."""
    peer = Peer(secure.parameters())
    consume(echo, at=where(secure))
    text = "x" * 500_000
    replies = peer.declare("")
    for number in range(5):
        peer.request(queue, replies, text=text, n=number)
    for number in range(5):
        found = payload.decode(peer.take(replies, 20)[1])["echo"]
        assert found["n"] == number and found["text"] == text
    peer.close()


def test_a_secure_connection_that_is_reset_comes_back_verified(
    secure: Secure, queue: str, consume: Consume
) -> None:
    peer = Peer(secure.parameters())
    with Proxy(secure.tls_port) as proxy:
        consumer = consume(echo, at=where(secure, proxy.port))
        for after in (1, 400, 800, 1200, 1600):
            proxy.cut_down_after = after
            cuts = proxy.cuts
            proxy.end(reset=True)
            eventually(lambda: proxy.cuts > cuts, what=f"cut after {after}")  # noqa: B023
            proxy.cut_down_after = None
            eventually(lambda: consumer.is_consuming)
            assert "echo" in peer.ask(queue)
        assert consumer.failure is None
    peer.close()


def test_no_secret_is_ever_printed(
    secure: Secure, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by what holds it nor by pika at its loudest; nor of a login that fails."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pika").setLevel(logging.DEBUG)
    secret = "a secret that is nowhere else"
    try:
        config = {
            "server": "localhost",
            "port": secure.tls_port,
            "users": {"mine": {"username": USER, "password": secret}},
            "tls": {"ca": str(secure.ca)},
        }
        settings = load_settings("mine", config)
        service = MQConnector(config, service_name="mine")
        service.vhost = VHOST
        connection = service.create_mq_connection()
        consumer = ConsumerThread(connection, queue, echo, limits=Limits())
        consumer.start()
        consumer.join(60)
        assert consumer.failure is not None
        told: list[object] = [
            settings,
            settings.tls,
            service,
            connection,
            consumer,
            consumer.failure,
        ]
        told += parameters_of(settings, VHOST, "mine")
        for each in told:
            assert secret not in repr(each) + str(each), type(each)
        assert "refuses user 'tester'" in str(consumer.failure)
        assert secret not in caplog.text and "a secret" not in caplog.text
    finally:
        logging.getLogger("pika").setLevel(logging.CRITICAL)
