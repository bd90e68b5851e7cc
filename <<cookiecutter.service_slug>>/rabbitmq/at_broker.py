"""A running broker: what it has of users, rights and policies, and how it is told; by its own rabbitmqctl."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import at_engine
from accounts import differences, fits, ours
from documents import CONFIG, Broken

#: Seconds that a command at the broker may take.
PATIENCE = 120
#: How rabbitmqctl begins where no broker answers it, or one that is still starting: a page on what may be the reason.
AWAY = ("unable to perform an operation on node", "app to be running on the target node")
#: Characters of what a command complains of.
LONGEST = 300
#: From a file, not from standard input, which the rabbitmqctl of some versions can't read.
IMPORT = """umask 077; file=$(mktemp) && cat >"$file" && rabbitmqctl -q import_definitions "$file" </dev/null
code=$?; rm -f "$file"; exit $code"""

#: How to name a broker that isn't in a container of this folder.
OTHERWISE = "another broker is named by --broker, such as --broker sudo"

#: What export_definitions prints of these. That itself can't be used, as 3.10 stumbles over the hash of the definitions
#: that were imported last. In Base64, because what is evaluated is printed as Erlang writes it.
EXPORT = (
    "base64:encode(rabbit_json:encode(maps:with([users, vhosts, permissions, topic_permissions, policies, "
    "queues, exchanges, bindings], rabbit_definitions:all_definitions())))."
)


class Broker:
    """A broker that runs.

    :param command: words before a command that make it run where the broker is
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def definitions(self) -> dict[str, Any]:
        """All that it has been told, with the hashes of passwords.

        :raises Broken: it doesn't say
        """
        text = "".join(re.findall('"([^"]*)"', self._ctl("eval", EXPORT)))
        try:
            found: dict[str, Any] = json.loads(base64.b64decode(text, validate=True))
        except ValueError:
            raise Broken("the broker: rabbitmqctl eval printed no definitions") from None
        return found

    def tell(self, definitions: Mapping[str, Any]) -> None:
        """Have it make what is missing, and change what is otherwise; what isn't named stays.

        :raises Broken: it doesn't
        """
        self._run(IMPORT, "import_definitions", json.dumps(definitions))

    def remove(self, user: str) -> None:
        """Remove a user, which ends its connections.

        :raises Broken: it doesn't
        """
        self._ctl("delete_user", user)

    def connections(self, user: str) -> list[str]:
        """Whence a user is connected, once for each connection.

        :raises Broken: it doesn't say
        """
        rows = self._json("list_connections", "user", "name", "--formatter", "json")
        return sorted(
            str(row.get("name")).partition(" ->")[0] for row in rows if row.get("user") == user
        )

    def disconnect(self, user: str) -> None:
        """End all connections of a user, who may come again.

        :raises Broken: it doesn't
        """
        self._ctl("close_all_user_connections", user, "the password has changed")

    def _json(self, *words: str) -> Any:
        text = self._ctl(*words)
        begin = min((text.find(sign) for sign in "[{" if sign in text), default=-1)
        try:
            return json.JSONDecoder().raw_decode(text, begin)[0]
        except (ValueError, IndexError):
            raise Broken(f"the broker: rabbitmqctl {words[0]} printed no JSON") from None

    def _ctl(self, *words: str) -> str:
        return self._run(f"rabbitmqctl -q {shlex.join(words)} </dev/null", words[0])

    def _run(self, script: str, name: str, text: str = "") -> str:
        """Run a shell's script there; returns what it prints.

        :param name: of the command in it, for who waits
        :param text: for its standard input, where what nobody else is to see goes
        """
        command = [*self._command, "sh", "-c", script]
        try:
            with at_engine.patiently(f"the broker (rabbitmqctl {name})"):
                done = subprocess.run(
                    command,
                    input=text,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=PATIENCE,
                )
        except subprocess.TimeoutExpired:
            raise Broken(f"the broker: no answer after {PATIENCE} s") from None
        except OSError as error:
            raise Broken(f"--broker: {self._command[0]} can't be run ({error.strerror})") from None
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout).split())
            if any(sign in said for sign in AWAY):
                raise Broken(
                    f"the broker: rabbitmqctl {name} doesn't reach it: start it, or name somebody who may "
                    "ask it (--broker sudo, say); then run this again"
                )
            raise Broken(f"the broker: {said[:LONGEST] or f'exit code {done.returncode}'}")
        return done.stdout


def find(command: str | None) -> Broker:
    """The broker that is named, else that of this folder's compose.yaml.

    :param command: what makes a command run where the broker is, as one text
    :raises Broken: there is none
    """
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise Broken(f"--broker {command!r}: {error}") from None
        if not words:
            raise Broken("--broker is empty: sudo, say, or kubectl exec -i POD --")
        return Broker(words)
    try:
        containers = at_engine.running("rabbitmq")
    except Broken as error:
        raise Broken(f"{error}; {OTHERWISE}") from None
    if not containers:
        raise Broken(
            "no broker of this folder runs in a container (docker compose up --detach --wait rabbitmq); "
            + OTHERWISE
        )
    return Broker(["docker", "exec", "--interactive", containers[0]])


def running(command: str | None, only_check: bool) -> Broker | None:
    """The broker that is named, or that of this folder, if it runs.

    :raises Broken: one is named, and its name makes no sense
    """
    try:
        return find(command)
    except Broken as error:
        if command is not None:
            raise
        if only_check:
            print(f"the broker wasn't asked: {error}")
        return None


def up_to_date(
    broker: Broker,
    logins: dict[str, tuple[str, str]],
    definitions: dict[str, Any],
    only_check: bool,
) -> bool:
    """Have the broker's policies and rights as this version makes them; passwords and others' stay.

    :param logins: the users that are to be there
    :returns: whether they were so
    :raises Broken: it can't be asked or told
    """
    found = broker.definitions()
    known = {each.get("name"): each for each in found.get("users") or []}
    lines: list[str] = []
    told: dict[str, list[Any]] = {}
    for name, password in logins.values():
        if name not in known:
            lines.append(f"user {name} is missing")
            users = [each for each in definitions["users"] if each["name"] == name]
            told["users"] = [*told.get("users", []), *users]
        elif not fits(known[name], password):
            lines.append(
                f"user {name} has another password than in {CONFIG}, until broker and service start anew "
                "(docker compose restart)"
            )
    for kind, entry, line in differences(found, ours(logins)):
        lines.append(line)
        if entry not in told.setdefault(kind, []):
            told[kind].append(entry)
    if told and not only_check:
        broker.tell(told)
    for line in lines:
        print(f"the broker: {line}")
    if told and not only_check:
        print("the broker: is as this version makes it now")
    return not lines
