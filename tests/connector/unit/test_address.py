"""Where to connect: asked for when it is needed, and again when the broker refuses what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pika
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from mq_connector.config import Settings, load
from mq_connector.config.tls import TLS
from mq_connector.connection.address import HEARTBEAT, Address, parameters
from mq_connector.errors import ConfigurationError


def one(host: str = "one.example") -> list[pika.ConnectionParameters]:
    return [pika.ConnectionParameters(host)]


def test_parameters_are_asked_for_when_they_are_needed_and_once() -> None:
    asked: list[int] = []

    def ask() -> list[pika.ConnectionParameters]:
        asked.append(1)
        return one()

    address = Address(ask)
    assert asked == []
    assert address.parameters is address.parameters
    assert asked == [1]


def test_what_was_given_stays_as_it_is() -> None:
    given = one()
    address = Address(given)
    address.ask_again()
    assert address.parameters is given


def test_what_was_asked_for_is_asked_for_again_on_demand() -> None:
    hosts = iter(["one.example", "two.example"])
    address = Address(lambda: one(next(hosts)))
    assert address.parameters[0].host == "one.example"
    address.ask_again()
    assert address.parameters[0].host == "two.example"


# ---- failures


def test_a_configuration_that_lacks_something_is_told_whenever_it_is_needed() -> None:
    def ask() -> list[pika.ConnectionParameters]:
        raise ConfigurationError("no user")

    address = Address(ask)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no user"):
            _ = address.parameters


def test_what_is_known_stays_where_it_can_t_be_read_now() -> None:
    """As in the moment in which somebody writes the file."""
    answers = iter([one()])

    def ask() -> list[pika.ConnectionParameters]:
        for answer in answers:
            return answer
        raise ConfigurationError("mq_config.json isn't valid JSON")

    address = Address(ask)
    known = address.parameters
    address.ask_again()
    assert address.parameters is known


def test_each_host_of_a_configuration_has_parameters_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MQ_SERVER", "MQ_PORT", "MQ_USERNAME", "MQ_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    user = {"username": "me", "password": "secret"}
    settings = load("mine", {"server": "one.example,two.example:5673", "users": {"mine": user}})
    found = parameters(settings, "/mine", "a name")
    assert [(each.host, each.port, each.virtual_host) for each in found] == [
        ("one.example", 5672, "/mine"),
        ("two.example", 5673, "/mine"),
    ]
    for each in found:
        credentials: Any = each.credentials
        assert (credentials.username, credentials.password) == ("me", "secret")
        assert each.heartbeat == HEARTBEAT
        assert each.client_properties == {"connection_name": "a name"}
        assert each.ssl_options is None


# ---- files for TLS


@pytest.fixture
def issued(tmp_path: Path) -> dict[str, str]:
    """Files: an authority, a certificate, its key, another key, an encrypted one, both in one, and none."""
    authority = trustme.CA()
    ours, other = authority.issue_cert("mq.example"), authority.issue_cert("mq.example")
    key = ours.private_key_pem.bytes()
    encrypted = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    texts = {
        "ca": authority.cert_pem.bytes(),
        "cert": ours.cert_chain_pems[0].bytes(),
        "key": key,
        "other": other.private_key_pem.bytes(),
        "encrypted": encrypted,
        "both": ours.cert_chain_pems[0].bytes() + key,
        "text": b"no PEM",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    return {name: str(tmp_path / name) for name in (*texts, "missing")}


def address_with(issued: dict[str, str], files: str) -> list[pika.ConnectionParameters]:
    named: dict[str, Any] = {
        key: issued[name] for key, name in (each.split("=") for each in files.split())
    }
    tls = TLS(**named)
    settings = Settings((("mq.example", 5671),), "me", "secret", "a file", tls)
    return parameters(settings, "/mine", "a name")


@pytest.mark.parametrize(
    "files", ["ca=ca", "cert=both", "ca=ca cert=cert key=key", "cert=both key=key"]
)
def test_files_for_tls_that_fit_are_taken(issued: dict[str, str], files: str) -> None:
    assert address_with(issued, files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("ca=missing", "missing: No such file"),
        ("ca=ca cert=missing key=key", "missing: No such file"),
        ("ca=ca cert=cert key=missing", "missing: No such file"),
        ("ca=key", "key: it has to hold certificates of authorities"),
        ("ca=text cert=cert key=key", "text: it has to hold certificates of authorities"),
        ("cert=cert", "cert: it has to hold a certificate and its unencrypted key.*MQ_TLS_KEY"),
        ("ca=ca cert=cert key=other", "cert and .*other: .*a certificate and its unencrypted key"),
        ("cert=key key=key", "key and .*key: .*a certificate and its unencrypted key"),
        # At a terminal OpenSSL would ask for its password, and wait.
        (
            "cert=cert key=encrypted",
            "cert and .*encrypted: .*a certificate and its unencrypted key",
        ),
    ],
)
def test_a_file_for_tls_that_does_not_fit_is_named(
    issued: dict[str, str], files: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^tls: .*{said}") as refused:
        address_with(issued, files)
    assert "_ssl.c" not in str(refused.value)
