"""Another password for the service, while it runs: two users in turn.

RabbitMQ has one password for each user. If that were changed, whoever connects with the old one before reading the new one
would be refused. So a second user is made with the same rights, the configuration names it, the service logs in as it, and
then the first one is removed. Each step can be done twice, so that the next run finishes one that was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import Any

import at_broker
import at_engine
from accounts import HASHING, credentials, fits, hashed
from at_broker import Broker
from documents import CONFIG, DEFINITIONS, SETTINGS, Broken, Document
from env_file import EnvFileError, read
from owners import KEEP, give, is_root
from topology import SERVICE

#: What the second user's name ends with.
SECOND = ".second"
#: Key under which the definitions note the new user until the old one has gone; RabbitMQ passes over it.
TURN = "rotating_to"
#: Lists of the definitions that have something of a user, and where its name stands in their entries.
OF_A_USER = {"users": "name", "permissions": "user", "topic_permissions": "user"}
#: Seconds within which whoever was cut off has come again.
SETTLED = 5.0
#: Seconds that commands with the old password get to end by themselves, once they were seen.
SHORT = 5.0
#: Seconds until it is first looked whether they have; each further look takes twice as long to come.
FIRST_PAUSE = 0.5


def other(user: str) -> str:
    """The user whose turn is next."""
    return user.removesuffix(SECOND) if user.endswith(SECOND) else user + SECOND


def rotate(command: str | None) -> None:
    """Give the service another user with another password, and remove the one it had.

    :param command: see `at_broker.find`
    :raises Broken: something is in the way; whoever has logged in so far still can
    """
    with at_engine.alone("another run is at it: wait for its end"):
        rotate_alone(command)


def rotate_alone(command: str | None) -> None:
    """The same for who has made sure of that."""
    config_file, definitions_file = Document(CONFIG, 0o600), Document(DEFINITIONS, 0o640)
    user, password = credentials(config_file, "--rotate")
    definitions = definitions_file.load()
    if not definitions:
        raise Broken(f"{DEFINITIONS} is missing: run this without --rotate first")
    refuse_overrides()
    broker = at_broker.find(command)
    there = broker.definitions()
    known = {str(each.get("name")): each for each in there.get("users", [])}
    if user not in known or not fits(known[user], password):
        raise Broken(
            f"the broker has no user {user} with the password in {CONFIG}: is it this copy's? "
            "Start it once more, so that it takes in the definitions"
        )
    if definitions.get(TURN) == user:
        print(f"{CONFIG}: the user {user} since an earlier run, which is finished now")
        old, new = other(user), user
    else:
        old, new = user, other(user)
        if new in known and definitions.get(TURN) != new:
            raise Broken(
                f"the broker has a user {new} that isn't of this copy, as from a backup: "
                f"remove it there (rabbitmqctl delete_user {new})"
            )
        introduce(broker, there, config_file, definitions_file, (old, new))
    move(broker, old, new)
    if old in known:
        broker.remove(old)
    forget(Document(DEFINITIONS, 0o640), old)
    print(f"the broker: user {old} is removed, and with it the old password")


def refuse_overrides() -> None:
    """:raises Broken: .env has credentials, which the service would go on with"""
    file = Document(SETTINGS, 0o600)
    try:
        known = read(file.text or "", os.environ)
    except EnvFileError as error:
        raise Broken(f"{SETTINGS}: {error}") from None
    for name in ("MQ_USERNAME", "MQ_PASSWORD"):
        if known.get(name):
            raise Broken(
                f"{SETTINGS}: {name} counts before {CONFIG}, which is what is renewed: take it out first"
            )


def introduce(
    broker: Broker,
    there: dict[str, Any],
    config_file: Document,
    definitions_file: Document,
    names: tuple[str, str],
) -> None:
    """Make the new user, with a password and the rights of the old one, and name it in the configuration.

    In this order: the note comes first, as it says which user may be removed again, and the file that clients read last.

    :param there: what the broker has been told
    :param names: of the old user, and of the new one
    """
    old, new = names
    password = secrets.token_urlsafe(32)
    secret = {"password_hash": hashed(password, os.urandom(4)), "hashing_algorithm": HASHING}
    definitions = definitions_file.load()
    for kind, key in OF_A_USER.items():
        double(definitions, kind, key, names, secret if kind == "users" else {})
    definitions[TURN] = new
    save(definitions_file, definitions)

    told: dict[str, Any] = {}
    for kind, key in OF_A_USER.items():
        double(there, kind, key, names, secret if kind == "users" else {})
        told[kind] = [each for each in there.get(kind, []) if each.get(key) == new]
    broker.tell(told)
    print(f"the broker: user {new} is made, with the rights of {old}")

    config = config_file.load()
    entry = config_file.users(config)[SERVICE]
    entry["password"] = password
    for key in ("username", "user"):
        if key in entry or key == "username":
            entry[key] = new
    save(config_file, config)
    print(f"{CONFIG}: names the user {new}")


def double(
    definitions: dict[str, Any],
    kind: str,
    key: str,
    names: tuple[str, str],
    changed: dict[str, str],
) -> None:
    """Give a second user what the first one has in a list of the definitions, in the place of what it had."""
    first, second = names
    entries = [each for each in definitions.get(kind, []) if each.get(key) != second]
    copies = [{**each, key: second, **changed} for each in entries if each.get(key) == first]
    if copies or kind in definitions:
        definitions[kind] = entries + copies


def move(broker: Broker, old: str, new: str) -> None:
    """Bring everybody who is logged in as the old user to the new one.

    The service's containers drain, and start again with the new file: it is mounted by itself, so that those that run
    go on seeing the one that was replaced. Whoever runs elsewhere is cut off, and reads the file when he connects again.

    :raises Broken: somebody comes again as the old user
    """
    changed = os.stat(Document(CONFIG, 0o600).path).st_mtime
    for container in containers():
        if at_engine.restart(container, changed):
            print(f"the service: its container {container} was restarted, and logs in as {new}")
    left = broker.connections(old)
    # Seldom, as each question starts a program in Erlang where the broker is.
    deadline, pause = time.monotonic() + SHORT, FIRST_PAUSE
    while left and (rest := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, rest))
        pause *= 2
        left = broker.connections(old)
    if left:
        broker.disconnect(old)
        time.sleep(SETTLED)
        left = broker.connections(old)
    if left:
        places = ", ".join(dict.fromkeys(each.rpartition(":")[0] for each in left))
        count = (
            "1 connection still comes" if len(left) == 1 else f"{len(left)} connections still come"
        )
        raise Broken(
            f"{count} as user {old}, from {places}: give them the new {CONFIG} and "
            "run this again, which removes it; until then both users may log in"
        )


def containers() -> list[str]:
    """Those of the service; none where there is no engine."""
    try:
        return at_engine.running("service")
    except Broken:
        return []


def forget(file: Document, old: str) -> None:
    """Take the old user out of the definitions, and the note of its successor."""
    definitions = file.load()
    for kind, key in OF_A_USER.items():
        if kind in definitions:
            definitions[kind] = [each for each in definitions[kind] if each.get(key) != old]
    definitions.pop(TURN, None)
    save(file, definitions)


def save(file: Document, data: dict[str, Any]) -> None:
    """Write a file anew, for those who may read it now."""
    status = file.status
    keeps = is_root() and status is not None
    file.write(
        json.dumps(data, indent=2) + "\n",
        (status.st_uid, status.st_gid) if keeps and status is not None else (KEEP, KEEP),
    )
    if not keeps and status is not None:
        with contextlib.suppress(PermissionError):  # `provision.py --check` says so
            give(file.path, (KEEP, status.st_gid))  # whom the broker's container reads it by
