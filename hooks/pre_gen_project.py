"""Refuse, before a file is written, answers that the generated repository could not live with.

cookiecutter renders the answers into this script and runs it in the new, empty folder, which goes
when it fails. One line says what the first problem is: where, what, and what to do.
"""

import contextlib
import json
import keyword
import os
import re
import reprlib
import sys
import time
from pathlib import Path

#: JSON in a raw string keeps the answers data, whatever they hold: inside it every quote of theirs
#: has a backslash before it, and the closing brace keeps three quotes from meeting at the end.
RENDERED = r"""<< cookiecutter|tojson >>"""
#: Bytes in an AMQP name: a short string has one byte for its length (AMQP 0-9-1, 4.2.5.3).
NAME_BYTES = 255
#: The longest of what the service puts behind its queue's name: the queue of a health probe.
SUFFIX = ".probe." + 32 * "f"
#: Names that a package would take away from something the generated repository imports.
TAKEN = "build conftest dotenv env_file hatchling iniconfig local local_node local_server packaging"
TAKEN += " mq_connector pika pip piptools pluggy provision pygments pytest rabbitmq setuptools src test tests"


def text_problem(text: str) -> str | None:
    """Free text is data: all may be in it but control codes, half surrogates and non-characters."""
    bad = re.search(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]", text)
    return f"holds the unprintable character U+{ord(bad[0]):04X}: take it out" if bad else None


def slug_problem(slug: str) -> str | None:
    if slug == "-":
        return "could not be made of service_name, which has no letter or digit: give one of them"
    fits = re.fullmatch("[a-z0-9]+([-_][a-z0-9]+)*", slug) and len(slug) <= 63
    return None if fits else "can't name a repository: use up to 63 of a-z, 0-9, and - between them"


def package_problem(package: str) -> str | None:
    if not re.fullmatch("[a-z][a-z0-9_]{0,62}", package):
        return "can't name a package: use up to 63 of a-z, 0-9 and underscores, a letter first"
    taken = package in {*keyword.kwlist, *sys.stdlib_module_names, *TAKEN.split()}
    return f"is taken by Python or a library: choose another, as neon_{package}" if taken else None


def user_problem(user: str) -> str | None:
    if user in ("mq_handler", "neon_api_utils"):
        return "is the key or the user of Neon's clients: choose another"
    fits = re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", user)
    return None if fits else "can't name a user: use up to 63 of a-z, A-Z, 0-9 and . _ -"


def vhost_problem(vhost: str) -> str | None:
    no_slash = "does not start with a slash: put one in front"
    return name_problem(vhost, NAME_BYTES) if vhost.startswith("/") else no_slash


def queue_problem(queue: str) -> str | None:
    if not queue or queue.startswith("amq."):
        return "is empty or starts with amq., which is the broker's own: choose another name"
    return name_problem(queue, NAME_BYTES - len(SUFFIX))


def name_problem(name: str, limit: int) -> str | None:
    if not name.isprintable() or set(name) & {*" '\"`\\$<>{}"}:
        return "holds a space, a quote, or one of \\ ` $ < > { }: leave such characters out"
    if (size := len(name.encode())) > limit:
        return f"has {size} bytes: use {limit} at most, for AMQP ends at {NAME_BYTES} with suffixes"
    return None


def remove_parents_later(slug: str) -> None:
    """A slug with slashes made folders above this one too: remove them once this one is gone."""
    here, depth, deadline = Path.cwd(), len(Path(slug).parts) - 1, time.monotonic() + 2
    if depth < 1 or os.fork():
        return
    while here.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        for parent in here.parents[:depth]:
            parent.rmdir()
    os._exit(0)


if not RENDERED.startswith("{"):  # Before 2.6, hooks know other delimiters.
    sys.exit("cookiecutter is too old, 2.6 is needed: pip install --upgrade 'cookiecutter>=2.6'")
answers = json.loads(RENDERED)
rules = {"service_slug": slug_problem, "package_name": package_problem, "vhost": vhost_problem}
rules |= {"input_queue": queue_problem, "description": text_problem, "service_name": text_problem}
rules |= {"author_name": text_problem, "author_email": text_problem, "__user_key": user_problem}
for name, rule in rules.items():
    text = isinstance(answers[name], str)  # In a user's own defaults, YAML may say null or true.
    if problem := rule(answers[name]) if text else "isn't text: put it in quotes, or take it out":
        print(f"{name} {reprlib.repr(answers[name])} {problem}.", file=sys.stderr)
        remove_parents_later(str(answers["service_slug"]))
        sys.exit(1)
