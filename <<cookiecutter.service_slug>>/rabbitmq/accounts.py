"""Users: their passwords in mq_config.json, and in the broker's definitions the hashes and their rights."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from typing import Any

from documents import Broken, Document
from topology import (
    CLIENT_KEY,
    CLIENT_USER,
    SERVICE,
    VHOST,
    client_rights,
    service_rights,
    topology,
)

#: How RabbitMQ calls its way to keep a password.
HASHING = "rabbit_password_hashing_sha256"


def hashed(password: str, salt: bytes) -> str:
    """RabbitMQ's way to keep a password; hard to guess for being 32 random bytes, not for the hash."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def fits(user: Mapping[str, Any], password: str) -> bool:
    """Whether a user of the definitions has this password."""
    if user.get("hashing_algorithm") != HASHING:
        return False
    known = str(user.get("password_hash"))
    try:
        salt = base64.b64decode(known, validate=True)[:4]
    except ValueError:
        return False
    return hmac.compare_digest(hashed(password, salt).encode(), known.encode())


def complete_config(
    file: Document, client: str | None
) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """The configuration with what it lacks, and the logins in it, by key under `users`.

    :param client: name of the clients' user, if they are to be let in
    """
    config = file.load() or {"server": "localhost", "port": 5672}
    users = file.users(config)
    logins = {SERVICE: complete_user(file, users, SERVICE, SERVICE)}
    if client is not None or CLIENT_KEY in users:
        login = complete_user(file, users, CLIENT_KEY, client or CLIENT_USER)
        if client not in (None, login[0]):
            raise Broken(
                f"{file.name}: users.{CLIENT_KEY} is {login[0]!r} already: run this without a name"
            )
        # Their connector reads `user`, its documentation says `username`.
        users[CLIENT_KEY].setdefault("user", login[0])
        logins[CLIENT_KEY] = login
    return config, logins


def complete_user(file: Document, users: dict[str, Any], key: str, name: str) -> tuple[str, str]:
    """Give an entry under `users` what it lacks; returns the user's name and password."""
    user = file.typed(users.setdefault(key, {}), dict, f"users.{key}")
    known, password = file.login(user, f"users.{key}")
    if not known:
        user["username"] = known = name
    if not password:
        user["password"] = password = secrets.token_urlsafe(32)
    return known, password


def complete_definitions(file: Document, logins: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The definitions, in which the configured users can log in with their passwords."""
    definitions = file.load() or topology()
    rights = {SERVICE: service_rights(), CLIENT_KEY: client_rights()}
    for key, (name, password) in logins.items():
        known = entry(file, definitions, "users", name=name)
        if not fits(known, password):
            known["password_hash"] = hashed(password, os.urandom(4))
            known["hashing_algorithm"] = HASHING
        known.setdefault("tags", [])  # No tag: neither the management pages nor administration.
        permission = entry(file, definitions, "permissions", user=name, vhost=VHOST)
        for right, pattern in rights[key].items():
            permission.setdefault(right, pattern)
    return definitions


def entry(file: Document, definitions: dict[str, Any], key: str, **names: str) -> dict[str, Any]:
    """The object in a list of the definitions that has these names; added where it is missing."""
    objects: list[Any] = file.typed(definitions.setdefault(key, []), list, key)
    for each in objects:
        found: dict[str, Any] = file.typed(each, dict, f"an entry of {key}")
        if names.items() <= found.items():
            return found
    objects.append(dict(names))
    added: dict[str, Any] = objects[-1]
    return added
