"""Users: their passwords in mq_config.json, and in the broker's definitions the hashes and their rights."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from declared import Declared
from documents import Broken, Document
from topology import (
    CLIENT_KEY,
    CLIENT_USER,
    SERVICE,
    VHOST,
    asking_rights,
    client_rights,
    declared,
    service_rights,
    topology,
)

#: Key under which the definitions keep the names that they were made for; RabbitMQ passes over it.
MADE_FOR = "made_for"
#: What ends the name of a queue for dead letters.
DEAD = ".dead"
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


def credentials(file: Document, option: str) -> tuple[str, str]:
    """The service's user and password in mq_config.json.

    :param option: what was typed, for which they are needed
    :raises Broken: they haven't been made yet
    """
    users = file.users(file.load())
    entry = file.typed(users.get(SERVICE, {}), dict, f"users.{SERVICE}")
    user, password = file.login(entry, f"users.{SERVICE}")
    if not user or not password:
        raise Broken(f"{file.name}: users.{SERVICE} is missing: run this without {option} first")
    return user, password


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
    """The definitions, in which the configured users can log in with their passwords, and have what the
    service's source names, as this version makes it; users, policies and rights of others stay."""
    names = declared()
    definitions = file.load()
    known = made_for(file, definitions) if definitions else names
    definitions = definitions or topology()
    if MADE_FOR not in definitions or known != names:
        definitions[MADE_FOR] = {key: list(each) for key, each in names._asdict().items()}
    update_objects(file, definitions, topology(known), topology(names))
    for name, password in logins.values():
        user = entry(file, definitions, "users", name=name)
        if not fits(user, password):
            user["password_hash"] = hashed(password, os.urandom(4))
            user["hashing_algorithm"] = HASHING
        user.setdefault("tags", [])  # No tag: neither the management pages nor administration.
    for rights in permissions(logins, names):
        found = entry(file, definitions, "permissions", user=rights["user"], vhost=rights["vhost"])
        found.update(rights)
    for vhost in {*known.vhosts} - {*names.vhosts}:
        gone = {"user": logins[SERVICE][0], "vhost": vhost, **asking_rights()}
        definitions["permissions"] = [each for each in definitions["permissions"] if each != gone]
    return definitions


def made_for(file: Document, definitions: dict[str, Any]) -> Declared:
    """The names that definitions were made for; where they don't say it, as of an earlier version, those of
    the queues whose dead letters they keep."""
    noted = file.typed(definitions.get(MADE_FOR, {}), dict, MADE_FOR)
    kinds = Declared._fields
    if not noted:
        queues = file.typed(definitions.get("queues", []), list, "queues")
        names = [str(each.get("name")) for each in queues if isinstance(each, dict)]
        found = tuple(each.removesuffix(DEAD) for each in names if each.endswith(DEAD))
        return Declared(queues=found)
    lists = {kind: file.typed(noted.get(kind, []), list, f"{MADE_FOR}.{kind}") for kind in kinds}
    return Declared(**{kind: tuple(map(str, names)) for kind, names in lists.items()})


def update_objects(
    file: Document, definitions: dict[str, Any], old: dict[str, Any], new: dict[str, Any]
) -> None:
    """Have all that is ours as this version makes it, and take out what is no more, if nobody has changed it."""
    for kind, wanted in new.items():
        objects: list[Any] = file.typed(definitions.setdefault(kind, []), list, kind)
        ours = {identity(each): each for each in wanted}
        gone = [each for each in old[kind] if identity(each) not in ours]
        kept = [each for each in objects if each not in gone]
        if kind == "policies":
            kept = [ours.get(identity(each), each) for each in kept]
        there = {identity(each) for each in kept}
        definitions[kind] = kept + [each for each in wanted if identity(each) not in there]


def identity(entry: Any) -> tuple[Any, ...]:
    """By what the broker tells an entry of the definitions from others of its kind."""
    keys = ("vhost", "name", "user", "source", "destination", "routing_key")
    return tuple(entry.get(key) for key in keys) if isinstance(entry, dict) else (entry,)


def permissions(logins: Mapping[str, tuple[str, str]], names: Declared) -> list[dict[str, str]]:
    """The rights of those who log in, as this version gives them."""
    return [
        *(
            {
                "user": name,
                "vhost": VHOST,
                **(service_rights(names) if key == SERVICE else client_rights(names)),
            }
            for key, (name, _) in logins.items()
        ),
        *(
            {"user": logins[SERVICE][0], "vhost": vhost, **asking_rights()}
            for vhost in names.vhosts
        ),
    ]


def ours(logins: Mapping[str, tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """What there is to be at the broker beside the users, as this version makes it."""
    names = declared()
    made = topology(names)
    del made["users"]
    return {**made, "permissions": permissions(logins, names)}


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """What some definitions lack of ours, or have otherwise: the kind, the entry as it is to be, and a line.

    :param found: definitions, also as a broker exports them
    """
    for kind, entries in wanted.items():
        there = {identity(each): each for each in found.get(kind) or []}
        for each in entries:
            what, other = called(kind, each), there.get(identity(each))
            if other is None:
                yield kind, each, f"{what} {'are' if kind == 'permissions' else 'is'} missing"
            elif kind in ("policies", "permissions"):
                has, needs = flat(other), flat(each)
                for key in sorted(needs.keys() | has.keys()):
                    if key not in needs:
                        yield kind, each, f"{what}: {key} is {has[key]!r}, and isn't to be set"
                    elif has.get(key) != needs[key]:
                        was = repr(has[key]) if key in has else "not set"
                        yield kind, each, f"{what}: {key} is {was}, and is to be {needs[key]!r}"


def called(kind: str, each: Mapping[str, Any]) -> str:
    """How a line calls an entry of the definitions."""
    if kind == "vhosts":
        return f"virtual host {each['name']}"
    if kind == "permissions":
        return f"rights of user {each['user']} in {each['vhost']}"
    if kind == "bindings":
        return f"binding of queue {each['destination']} in {each['vhost']}"
    return f"{'policy' if kind == 'policies' else kind[:-1]} {each['name']!r} in {each['vhost']}"


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A policy or a permission in one level: what a policy sets beside what it says of itself."""
    inner = entry.get("definition")
    return {
        **{key: value for key, value in entry.items() if key != "definition"},
        **(inner if isinstance(inner, dict) else {}),
    }


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
