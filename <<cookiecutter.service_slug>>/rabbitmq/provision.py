"""Make what stays out of git: the credentials, the settings, and what the broker is to know of them.

    python rabbitmq/provision.py                  after a clone; at generation it has run already
    python rabbitmq/provision.py --client-user    let Neon's clients in as well
    python rabbitmq/provision.py --check          only say what is missing
    python rabbitmq/provision.py --print neon     what an existing Neon installation needs

Whatever is there is kept: to change a password, take it out of mq_config.json, run this and restart
the broker. To make the definitions anew, delete them: they get the passwords that exist.
Needs nothing but Python 3.10 and prints no secret, but for --print.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The only lines that are filled in when the project is generated. Whoever adds a queue or an exchange
# here removes rabbitmq/definitions.json, runs this, and restarts the broker.
PACKAGE = "<< cookiecutter.package_name >>"
VHOST = "<< cookiecutter.vhost >>"
#: What the service consumes.
QUEUES = ("<< cookiecutter.input_queue >>",)
#: Exchanges that it subscribes to or publishes to; Neon's are of the kind `fanout`.
EXCHANGES: tuple[str, ...] = ()

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "mq_config.json"
SETTINGS = ".env"
DEFINITIONS = "rabbitmq/definitions.json"
#: What the compose file mounts into the broker's container, where another user reads it.
BROKER_FILES = ("rabbitmq/rabbitmq.conf", "rabbitmq/enabled_plugins", DEFINITIONS)

#: Key under `users` where Neon's clients look for their credentials, and the user they have there.
CLIENT_KEY = "mq_handler"
CLIENT_USER = "neon_api_utils"
#: As whom the container runs when root generated the project: anybody without rights will do.
UNPRIVILEGED = 10001

DAY = 24 * 60 * 60 * 1000  # Milliseconds, as the broker counts.
#: Bounds of an input queue. Unbounded, a backlog would fill the disk, and then the broker would
#: block everybody; a full queue refuses further requests (basic.nack where the client asked for it).
BACKLOG = {"max-length": 1_000_000, "max-length-bytes": 2**30, "overflow": "reject-publish"}
#: Bounds of the dead-letter queue, beyond which the oldest go. They are to be looked at, not kept.
KEPT_DEAD = {
    "max-length": 100_000,
    "max-length-bytes": 2**28,
    "message-ttl": 14 * DAY,
    # Looking at a message counts as a delivery, and since RabbitMQ 4.0 the twentieth look would be
    # its end. The value for "no limit", -1, is refused by 3.10.
    "delivery-limit": 1_000_000_000,
}


#: Numbers of a user and of a group.
Ids = tuple[int, int]
#: What .env begins with; the variables that differ between machines are put below.
NEW_SETTINGS = """\
# Settings of this copy, read by the service and by Docker Compose. Never commit it.
# All there are, with their defaults: .env.example
#
#MQ_PORT=5672
#MQ_WORKERS=1
#MQ_PREFETCH=200
#MQ_QUEUE_TYPE=auto

# SERVICE_UID and SERVICE_GID: as whom it runs in its container; they must be able to read mq_config.json.
"""


class Broken(Exception):
    """Something that only its owner can repair: which file, which key, what to do."""


class Document:
    """One of the files that are made here.

    :param name: path relative to the repository
    :param mode: permission bits if it is to be made
    :raises Broken: it is there and can't be read
    """

    def __init__(self, name: str, mode: int) -> None:
        self.name, self.mode = name, mode
        # Where a link leads, so that writing doesn't put a file in the link's place.
        self.path = Path(os.path.realpath(ROOT / name))
        self.text: str | None = None
        try:
            self.text = self.path.read_text(encoding="utf-8")
            self.status: os.stat_result | None = self.path.stat()
        except FileNotFoundError:
            self.status = None
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
            raise Broken(f"{name} can't be read ({reason}): {self.way_out}") from None

    @property
    def way_out(self) -> str:
        return "repair it, or remove it and run this again"

    def load(self) -> dict[str, Any]:
        """What the file holds, or an empty object where it is missing.

        :raises Broken: it is no JSON object
        """
        if self.text is None:
            return {}
        try:
            data = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise Broken(f"{self.name} isn't valid JSON ({error}): {self.way_out}") from None
        whole: dict[str, Any] = self.typed(data, dict, "the whole of it")
        return whole

    def typed(self, value: Any, kind: type[Any], key: str) -> Any:
        """The value, if it is of that type.

        :raises Broken: it isn't
        """
        if isinstance(value, kind):
            return value
        needed = {"dict": "an object", "list": "a list", "str": "a string"}[kind.__name__]
        raise Broken(f"{self.name}: {key} isn't {needed}: {self.way_out}")

    def unless_same(self, data: dict[str, Any]) -> str:
        """The file's text if it holds just that already, so that nobody's layout is touched."""
        if self.text is not None and self.load() == data:
            return self.text
        return json.dumps(data, indent=2) + "\n"

    def write(self, text: str, owner: Ids | None) -> None:
        """Put the file there in one piece, never readable by more people than it is meant for.

        :param owner: numbers of a user and a group to give it to, which takes root
        """
        mode = self.mode if self.status is None else stat.S_IMODE(self.status.st_mode)
        beside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.tmp")
        # O_EXCL follows no link, and the file has these rights before it has a byte.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                if owner is not None:
                    os.fchown(handle, *owner)
                file.write(text)
                file.flush()
                os.fchmod(handle, mode)
                os.fsync(handle)
            os.replace(beside, self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def exactly(*patterns: str) -> str:
    """A regular expression for whole names: RabbitMQ searches, so an open one matches anywhere."""
    return f"^({'|'.join(patterns)})$"


def permissions() -> dict[str, dict[str, str]]:
    """The least that works, by key under `users`, in RabbitMQ's three kinds.

    The service makes, consumes and probes its own queues, reads what was dead-lettered, and has reply
    queues for `request`; a subscriber makes its exchange and a queue, and binds the two. It may not
    make the queues that clients wait for replies at: what it answers goes there through the default
    exchange, and a queue that it made after its client had gone would stay for ever.

    Neon's clients declare the queue they publish to, and RabbitMQ has no right to declare that is
    not also a right to delete. They can't read from it. Their reply queues are UUIDs or have one of
    two usual forms; for others, add a name here.
    """
    queues = [re.escape(queue) for queue in QUEUES]
    exchanges = [re.escape(exchange) for exchange in EXCHANGES]
    dead = [rf"{queue}\.dead" for queue in queues]
    probes = [rf"{queue}\.probe\.[0-9a-f]+" for queue in queues]
    replies = rf"{re.escape(PACKAGE)}\.reply\.[0-9a-f]+"
    client = ["[0-9a-f]{32}", "[A-Za-z0-9_]+_output"]
    client += [rf"{queue}\.response\.[0-9a-f]+" for queue in queues]
    bound = [*queues, *subscribers()] if exchanges else []  # To bind a queue is to write to it.
    publish = [r"amq\.default", *exchanges]
    return {
        PACKAGE: {
            "configure": exactly(*queues, *probes, replies, *exchanges, *subscribers()),
            "write": exactly(*publish, *bound),
            "read": exactly(*queues, *dead, replies, *exchanges, *subscribers()),
        },
        CLIENT_KEY: {
            "configure": exactly(*queues, *client, *exchanges),
            "write": exactly(*publish),
            "read": exactly(*client),
        },
    }


def subscribers() -> list[str]:
    """Patterns of the names that `register_subscriber` gives its queues."""
    return [rf"subscriber_{re.escape(exchange)}_[0-9a-f]{{6}}" for exchange in EXCHANGES]


def topology() -> dict[str, Any]:
    """Definitions without users. The input queues are missing: the service declares them by itself.

    It does so without arguments of its own, because with them Neon's clients, who declare it too,
    would be refused (406). So where its dead letters go, and how long it may grow, is policy.
    RabbitMQ takes the policy of highest priority whose every key fits the type of queue: a classic
    queue skips the first and gets the second. To name the type ("quorum_queues") would be clearer,
    but 3.10 doesn't know that and silently imports no queue at all.

    Each input queue has a queue for what can't be handled, and an exchange of the same name that leads
    there; what subscribers can't handle joins that of the first.
    """
    # A quorum queue keeps a rejected message until the dead-letter queue has confirmed it.
    safely = {"dead-letter-strategy": "at-least-once", "delivery-limit": 20}
    made: dict[str, list[dict[str, Any]]] = {"exchanges": [], "queues": [], "bindings": []}
    policies: list[dict[str, Any]] = []
    for queue in QUEUES:
        dead, pattern = f"{queue}.dead", re.escape(queue)
        letters = {"dead-letter-exchange": dead}
        durable = {"name": dead, "vhost": VHOST, "durable": True, "auto_delete": False}
        bound = {"source": dead, "destination": dead, "destination_type": "queue"}
        made["exchanges"] += [{**durable, "type": "fanout", "internal": False, "arguments": {}}]
        made["queues"] += [{**durable, "arguments": {"x-queue-type": "quorum"}}]
        made["bindings"] += [{**bound, "routing_key": "", "vhost": VHOST, "arguments": {}}]
        policies += [
            policy(f"{queue} quorum", pattern, 2, {**letters, **safely, **BACKLOG}),
            policy(f"{queue} classic", pattern, 1, {**letters, **BACKLOG}),
            policy(dead, re.escape(dead), 1, KEPT_DEAD),
        ]
    if EXCHANGES:
        letters = {"dead-letter-exchange": f"{QUEUES[0]}.dead"}
        policies.append(
            policy(f"{PACKAGE} subscribers", "|".join(subscribers()), 1, {**letters, **BACKLOG})
        )
    return {
        "vhosts": [{"name": VHOST}],
        "users": [],
        "permissions": [],
        **made,
        "policies": policies,
    }


def policy(name: str, pattern: str, priority: int, definition: dict[str, Any]) -> dict[str, Any]:
    """A policy for the queues of whole names that fit the pattern."""
    return {
        "vhost": VHOST,
        "name": name,
        "pattern": exactly(pattern),
        "apply-to": "queues",
        "priority": priority,
        "definition": definition,
    }


def hashed(password: str, salt: bytes) -> str:
    """RabbitMQ's way to keep a password; hard to guess for being 32 random bytes, not for the hash."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def fits(user: Mapping[str, Any], password: str) -> bool:
    """Whether a user of the definitions has this password."""
    if user.get("hashing_algorithm") != "rabbit_password_hashing_sha256":
        return False
    known = str(user.get("password_hash"))
    try:
        salt = base64.b64decode(known, validate=True)[:4]
    except ValueError:
        return False
    return hmac.compare_digest(hashed(password, salt).encode(), known.encode())


def complete_config(file: Document, client: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration with what it lacks, and the part of it that holds the users.

    :param client: name of the clients' user, if they are to be let in
    """
    config = file.load() or {"server": "localhost", "port": 5672}
    inner = file.typed(config.get("MQ", config), dict, "MQ")
    users = file.typed(inner.setdefault("users", {}), dict, "users")
    complete_user(file, users, PACKAGE, PACKAGE)
    if client is not None:
        name = complete_user(file, users, CLIENT_KEY, client)
        if name != client:
            raise Broken(
                f"{file.name}: users.{CLIENT_KEY} is {name!r} already: run this without a name"
            )
        # Their connector reads `user`, its documentation says `username`.
        users[CLIENT_KEY].setdefault("user", client)
    return config, users


def complete_user(file: Document, users: dict[str, Any], key: str, name: str) -> str:
    """Give an entry under `users` what it lacks; returns the user's name."""
    user = file.typed(users.setdefault(key, {}), dict, f"users.{key}")
    if not (user.get("username") or user.get("user")):
        user["username"] = name
    if not user.get("password"):
        user["password"] = secrets.token_urlsafe(32)
    file.typed(user["password"], str, f"users.{key}.password")
    return str(file.typed(user.get("username") or user["user"], str, f"users.{key}.username"))


def complete_definitions(file: Document, users: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The definitions, in which the configured users can log in with their passwords."""
    definitions = file.load() or topology()
    for key, allowed in permissions().items():
        if key not in users:
            continue
        name = users[key].get("username") or users[key]["user"]
        known = entry(file, definitions, "users", name=name)
        if not fits(known, users[key]["password"]):
            known["password_hash"] = hashed(users[key]["password"], os.urandom(4))
            known["hashing_algorithm"] = "rabbit_password_hashing_sha256"
        known.setdefault("tags", [])  # No tag: neither the management pages nor administration.
        permission = entry(file, definitions, "permissions", user=name, vhost=VHOST)
        for right, pattern in allowed.items():
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


def complete_settings(file: Document, service: Ids) -> tuple[str, Ids]:
    """The text of .env with what it lacks, and as whom it lets the container run.

    :param service: user and group to run as, unless the file says otherwise
    """
    wanted = {
        "SERVICE_UID": str(service[0]),
        "SERVICE_GID": str(service[1]),
    }
    text = NEW_SETTINGS if file.text is None else file.text
    known = dict(re.findall(r"^(?:export +)?(\w+) *= *['\"]?([^'\"\s#]*)", text, re.MULTILINE))
    lines = [f"{name}={value}" for name, value in wanted.items() if name not in known]
    if lines:
        text = "\n".join([text.rstrip("\n"), *lines, ""]).lstrip("\n")
    uid, gid = ({**wanted, **known}[name] for name in ("SERVICE_UID", "SERVICE_GID"))
    if not (uid.isdecimal() and gid.isdecimal()):
        raise Broken(
            f"{file.name}: SERVICE_UID and SERVICE_GID are {uid!r} and {gid!r}, not numbers"
        )
    return text, (int(uid), int(gid))


def provision(client: str | None, only_check: bool) -> bool:
    """Bring all files to completion, with a line for each.

    :param client: name of the user for Neon's clients, if they are to be let in
    :param only_check: change nothing, only say what would change
    :returns: whether nothing was missing
    :raises Broken: something that is there stands in the way
    """
    root, folder = os.geteuid() == 0, ROOT.stat()
    # Root works for whoever owns the folder. Where that is root too, the container gets a user of
    # its own: its service needs no rights on this machine, but must be able to read one file.
    myself = (folder.st_uid, folder.st_gid) if root else (os.getuid(), os.getgid())
    giving = myself if root and myself[0] != 0 else None
    service = myself if myself[0] != 0 else (UNPRIVILEGED, UNPRIVILEGED)

    config_file, settings_file = Document(CONFIG, 0o600), Document(SETTINGS, 0o600)
    # No secret: salted hashes of random passwords. The broker reads it as a user of its own.
    definitions_file = Document(DEFINITIONS, 0o644)
    settings, service = complete_settings(settings_file, service)
    config, users = complete_config(config_file, client)
    definitions = complete_definitions(definitions_file, users)

    complete = True
    # The passwords before their hashes: what is interrupted in between is mended by another run.
    for file, text, owner in (
        (config_file, config_file.unless_same(config), service if root else None),
        (definitions_file, definitions_file.unless_same(definitions), giving),
        (settings_file, settings, giving),
    ):
        if text == file.text:
            print(f"{file.name}: kept")
            continue
        complete = False
        missing = file.text is None
        if only_check:
            print(f"{file.name}: {'missing' if missing else 'incomplete'}")
        else:
            file.write(text, owner)
            print(f"{file.name}: {'made' if missing else 'completed'}")
            if file is definitions_file and not missing:
                print("  a broker that runs already takes it in at its next start")
    # A list, so that each has its say.
    return all([open_to_broker(only_check), readable_by(service, only_check), complete])


def open_to_broker(only_check: bool) -> bool:
    """Let the broker's user read its files, which a strict umask at a clone denies him."""
    complete = True
    for name in BROKER_FILES:
        path = ROOT / name
        if path.exists() and (path.stat().st_mode & 0o444) != 0o444:
            complete = False
            if not only_check:
                path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o444)
            print(f"{name}: {'not readable' if only_check else 'made readable'} for the broker")
    return complete


def readable_by(service: Ids, only_check: bool) -> bool:
    """See to it that the container can read the configuration, and nobody else without need."""
    path = ROOT / CONFIG
    if not path.exists():
        return True
    status = path.stat()
    if status.st_mode & 0o077:
        print(f"{CONFIG}: other users may read it: chmod 600 {CONFIG}")
    if status.st_uid == service[0] or service[0] == 0:
        return True
    if not only_check and os.geteuid() == 0:
        os.chown(path, *service)
        print(f"{CONFIG}: given to user {service[0]}, as whom the container runs")
        return True
    print(
        f"{CONFIG}: belongs to user {status.st_uid}, but the container runs as {service[0]}: "
        f"take SERVICE_UID and SERVICE_GID out of {SETTINGS} and run this again"
    )
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description="Make the credentials, settings and broker definitions that are missing."
    )
    parser.add_argument(
        "--client-user",
        nargs="?",
        const=CLIENT_USER,
        metavar="NAME",
        help=f"let Neon's clients in, as this user ({CLIENT_USER}); their credentials come under "
        f"users.{CLIENT_KEY} in {CONFIG}",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing, say what is missing; 1 if anything is"
    )
    parser.add_argument(
        "--print",
        choices=["neon"],
        help="print what an existing Neon installation needs to let the service in; holds a password",
    )
    options = parser.parse_args(arguments)
    name = options.client_user
    if name is not None and (not re.fullmatch(r"[\w.-]{1,64}", name) or name == PACKAGE):
        parser.error(
            f"--client-user {name!r}: give a name of letters, digits, . _ -, not {PACKAGE}"
        )
    try:
        if options.print:
            from neon import show

            show(name or CLIENT_USER)
            return 0
        complete = provision(name, options.check)
    except (Broken, OSError, UnicodeError) as error:
        print(f"provision.py: {error}", file=sys.stderr)
        return 1
    return 1 if options.check and not complete else 0


# Without an exit where all went well: the hook that runs this at generation goes on afterwards.
if __name__ == "__main__" and (code := main()):
    sys.exit(code)
