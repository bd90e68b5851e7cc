"""Make what stays out of git: the credentials, the settings, and what the broker is to know of them.

    python rabbitmq/provision.py                  after a clone; at generation it has run already
    python rabbitmq/provision.py --client-user    let Neon's clients in as well
    python rabbitmq/provision.py --check          only say what is missing, or otherwise than this version makes it
    python rabbitmq/provision.py --rotate         give the service another password, while it runs
    python rabbitmq/provision.py --print neon     what an existing Neon installation needs

Queues and exchanges are those that the service's source names: after a change there, run this again. What this
made of policies and rights it brings up to date, in the definitions and at a broker that runs in this folder's
container; passwords, and what it hasn't made, stay. --broker names another one, by the words that make a command
run where it is. Needs nothing but Python 3.10 and prints no secret, but for --print.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

if __name__ == "__main__":
    # `python -P` and PYTHONSAFEPATH leave out the script's own folder.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # What root leaves in somebody else's folder, its owner could not remove.
    sys.dont_write_bytecode = True

    def _brief(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Ctrl-C while the rest loads is an end without a traceback, an edit of topology.py that fails a line."""
        if isinstance(error, SyntaxError):
            why = f"{error.filename}:{error.lineno}: isn't valid Python ({error.msg}): repair it first"
            print(f"provision.py: {why}", file=sys.stderr)
        elif kind is not KeyboardInterrupt:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = _brief

import argparse
import contextlib
import io
import re
import stat

import at_engine
import cookie
from accounts import complete_config, complete_definitions, differences, ours
from documents import CONFIG, DEFINITIONS, ROOT, SETTINGS, Broken, Document, Patient
from env_file import EnvFileError, read
from owners import KEEP, NUMBERED, Ids, give, is_root, whose
from topology import CLIENT_KEY, CLIENT_USER, SERVICE

#: Without a secret in them, and mounted into the broker's container, where another user reads them.
BROKER_FILES = ("rabbitmq/rabbitmq.conf", "rabbitmq/enabled_plugins", "rabbitmq/cluster.conf")
#: As whom the container runs when root generated the project: anybody without rights will do.
UNPRIVILEGED = 10001
#: The highest number of a user or a group; the one above stands for none (chown(2)).
HIGHEST_ID = 2**32 - 2
#: What .env begins with; the variables that differ between machines are put below.
NEW_SETTINGS = """\
# Settings of this copy, read by the service and by Docker Compose. Never commit it.
# All there are, with their defaults: .env.example
#
# Ports of this machine; a second copy on it needs others.
#MQ_PORT=5672
#MQ_MANAGEMENT_PORT=15672
#MQ_BROKER_METRICS_PORT=15692
#
#MQ_WORKERS=1
#MQ_QUEUE_TYPE=auto

{project}# SERVICE_UID and SERVICE_GID: as whom the service runs in its container; they must be able to read
# mq_config.json. The broker's container reads rabbitmq/definitions.json by the group.
"""
#: For a copy that is new: one that has run already has its volume under another name.
NEW_PROJECT = """\
# What containers, network and volumes of this folder are called after. Another name begins with empty volumes.
# A copy of the folder (cp -r) needs another one, or it takes over the containers and the volumes of this one.
COMPOSE_PROJECT_NAME={name}

"""


def complete_settings(file: Document, service: Ids, is_new: bool) -> tuple[str, Ids]:
    """The text of .env with what it lacks, and as whom it lets the container run.

    :param service: user and group to run as, unless the file says otherwise
    :param is_new: whether nothing of this copy can have run yet
    :raises Broken: the file is one that its readers would read differently
    """
    wanted = {"SERVICE_UID": str(service[0]), "SERVICE_GID": str(service[1])}
    text = file.text
    if text is None:
        name = at_engine.project(is_new)
        text = NEW_SETTINGS.format(project=NEW_PROJECT.format(name=name) if name else "")
    try:
        known = read(text, os.environ)
    except EnvFileError as error:
        raise Broken(f"{file.name}: {error}") from None
    end = "\r\n" if "\r\n" in text else "\n"
    lines = [f"{name}={value}{end}" for name, value in wanted.items() if name not in known]
    if lines:
        above = text.rstrip("\r\n")
        text = "".join([above, end if above.strip("\ufeff") else "", *lines])
    ids = []
    for name, value in wanted.items():
        number = known.get(name, value)
        if not re.fullmatch("[0-9]{1,10}", number) or int(number) > HIGHEST_ID:
            raise Broken(f"{file.name}: {name} must be a number from 0 to {HIGHEST_ID}")
        ids.append(int(number))
    return text, (ids[0], ids[1])


def provision(client: str | None, only_check: bool, command: str | None = None) -> bool:
    """Bring all files to completion, with a line for each.

    :param client: name of the user for Neon's clients, if they are to be let in
    :param only_check: change nothing, only say what would change
    :param command: see `at_broker.find`
    :returns: whether nothing was missing
    :raises Broken: something that is there stands in the way
    """
    # Where root works for itself, the container gets a user of its own: its service needs no rights
    # on this machine, but must be able to read one file.
    root, myself = is_root(), whose(ROOT)
    giving = myself if root and myself[0] != 0 else (KEEP, KEEP)
    service = myself if myself[0] != 0 else (UNPRIVILEGED, UNPRIVILEGED)

    config_file, settings_file = Document(CONFIG, 0o600), Document(SETTINGS, 0o600)
    # Salted hashes of random passwords, for their owner and, by its group, the broker's container.
    definitions_file = Document(DEFINITIONS, 0o640)
    is_new = config_file.text is None and definitions_file.text is None
    settings, service = complete_settings(settings_file, service, is_new)
    config, logins = complete_config(config_file, client)
    before = definitions_file.load()
    definitions = complete_definitions(definitions_file, logins)
    broker = None
    if before or command is not None:
        import at_broker  # as all that isn't needed at generation, where it takes time

        broker = at_broker.running(command, only_check)

    complete = True
    # The passwords before their hashes: what is interrupted in between is mended by another run.
    for file, text, owner in (
        (config_file, config_file.unless_same(config), service if root else (KEEP, KEEP)),
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
            if file is definitions_file and not missing and broker is None:
                print("  a broker that runs already takes it in at its next start")
        if file is definitions_file and not missing:
            for _, _, line in differences(before, ours(logins)):
                print(f"  {line}")
    cookie_complete = cookie.complete(giving, only_check)
    # A list, so that each has its say.
    return all(
        [
            open_to_broker(only_check),
            grouped_for_broker(DEFINITIONS, service[1], only_check),
            cookie_complete,
            grouped_for_broker(cookie.COOKIE, service[1], only_check),
            readable_by(service, only_check),
            complete,
            broker is None or at_broker.up_to_date(broker, logins, definitions, only_check),
        ]
    )


def open_to_broker(only_check: bool) -> bool:
    """Let the broker's user read its files, also where they were cloned with a strict umask."""
    complete = True
    for name in BROKER_FILES if NUMBERED else ():
        path = ROOT / name
        if path.exists() and (path.stat().st_mode & 0o444) != 0o444:
            complete = False
            if not only_check:
                path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o444)
            print(f"{name}: {'not readable' if only_check else 'made readable'} for the broker")
    return complete


def grouped_for_broker(name: str, group: int, only_check: bool) -> bool:
    """Let the broker read a file by its group, which its container is in, and nobody else.

    The container's own user has another number on this machine, or none. To give it the file would
    take root, and to open the file to everybody would show every local user what is in it: hashes, or the cookie.
    """
    path = ROOT / name
    if not path.exists() or not NUMBERED:
        return True
    status = path.stat()
    if status.st_mode & 0o007:
        print(f"{name}: other users may read it: chmod 640 {name}")
    if status.st_gid == group and status.st_mode & 0o040:
        return True
    if only_check:
        print(f"{name}: not readable for the broker, by group {group}")
        return bool(status.st_mode & 0o004)
    try:
        give(path, (KEEP, group))
        path.chmod(stat.S_IMODE(status.st_mode) | 0o040)
    except PermissionError:
        print(
            f"{name}: can't be given to group {group}, in which the broker's container runs: "
            f"take SERVICE_GID out of {SETTINGS} and run this again"
        )
        return bool(status.st_mode & 0o004)
    return True


def readable_by(service: Ids, only_check: bool) -> bool:
    """See to it that the container can read the configuration, and nobody else without need."""
    path = ROOT / CONFIG
    if not path.exists() or not NUMBERED:
        return True
    status = path.stat()
    if status.st_mode & 0o077:
        print(f"{CONFIG}: other users may read it: chmod 600 {CONFIG}")
    if status.st_uid == service[0] or service[0] == 0:
        return True
    if not only_check and is_root():
        give(path, service)
        print(f"{CONFIG}: given to user {service[0]}, as whom the container runs")
        return True
    print(
        f"{CONFIG}: belongs to user {status.st_uid}, but the container runs as {service[0]}: "
        f"take SERVICE_UID and SERVICE_GID out of {SETTINGS} and run this again"
    )
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # what an old console can't show, Python spells
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
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
        "--check",
        action="store_true",
        help="change nothing, say what is missing or otherwise than this version makes it; 1 if anything is",
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="give the service another user and password at the running broker, and remove the old one",
    )
    parser.add_argument(
        "--broker",
        metavar="COMMAND",
        help="what makes a command run where the broker is, such as 'kubectl exec -i POD --' or sudo; by "
        "default, that of this folder's containers is taken",
    )
    parser.add_argument(
        "--print",
        choices=["neon"],
        help="print what an existing Neon installation needs to let the service in; holds a password",
    )
    options = parser.parse_args(arguments)
    name = options.client_user
    if name is not None and (not re.fullmatch(r"[\w.-]{1,64}", name) or name == SERVICE):
        parser.error(
            f"--client-user {name!r}: give a name of letters, digits, . _ -, not {SERVICE}"
        )
    if options.print and (options.check or options.broker is not None):
        parser.error("--print goes alone, or with --client-user")
    if options.rotate and (options.check or options.print or name is not None):
        parser.error("--rotate goes alone, or with --broker")
    try:
        output = Patient(sys.stdout)
        with contextlib.redirect_stdout(output):
            if options.print:
                import neon

                neon.show(name or CLIENT_USER)
                complete = True
            elif options.rotate:
                from rotation import rotate

                rotate(options.broker)
                complete = True
            else:
                with contextlib.nullcontext() if options.check else at_engine.alone():
                    complete = provision(name, options.check, options.broker)
        if output.trouble:
            raise OSError(f"can't write to the standard output: {output.trouble}")
    except (Broken, OSError) as error:
        print(f"provision.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = ": run it again, and it finishes" if options.rotate else ""
        print(f"provision.py: interrupted{again}", file=sys.stderr)
        return 130
    return 1 if options.check and not complete else 0


# Without an exit where all went well: the hook that runs this at generation goes on afterwards.
if __name__ == "__main__" and (code := main()):
    sys.exit(code)
