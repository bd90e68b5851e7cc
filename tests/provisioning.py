"""A cloned repository, and what provision.py makes of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import forks
from baked import SECRETS, BakedProject

CONFIG, DEFINITIONS = "mq_config.json", "rabbitmq/definitions.json"
#: By which the brokers of a cluster know each other.
COOKIE = "rabbitmq/erlang.cookie"


def clone(project: BakedProject) -> BakedProject:
    """The repository as git carries it: without what provision.py makes."""
    for name in SECRETS:
        (project / name).unlink()
    return project


def provision(
    project: BakedProject, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run it and see that it neither prints a secret nor leaves a file half-made."""
    command = ["rabbitmq/provision.py", *arguments]
    if options.keys() <= {"umask"}:
        done = forks.run(command, cwd=project.path, **options)
    else:
        command = [sys.executable, *command]
        done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, **options)
    assert "Traceback" not in done.stderr
    assert not [*project.path.rglob("*.tmp")]
    for secret in re.findall(r'"password(?:_hash)?": "([^"]+)"', everything(project)):
        assert secret not in done.stdout + done.stderr
    return done


def everything(project: BakedProject) -> str:
    files = (project / name for name in SECRETS)
    return "\n".join(path.read_text(errors="replace") for path in files if path.is_file())


def load(project: BakedProject, name: str) -> Any:
    return json.loads(project.read(name))


def change(project: BakedProject, name: str, edit: Callable[[Any], None]) -> None:
    data = load(project, name)
    edit(data)
    (project / name).write_text(json.dumps(data), encoding="utf-8")


def password_fits(project: BakedProject, user: str, password: str) -> bool:
    """As the broker checks it: four bytes of salt, then the SHA-256 of salt and password."""
    [known] = [each for each in load(project, DEFINITIONS)["users"] if each["name"] == user]
    raw = base64.b64decode(known["password_hash"])
    return raw == raw[:4] + hashlib.sha256(raw[:4] + password.encode()).digest()
