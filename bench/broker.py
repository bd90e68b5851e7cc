"""The private RabbitMQ: the generated project's own, with one more user, who may do everything."""

from __future__ import annotations

import importlib.util
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from .service import VHOST
from .wire import Address

#: User of the client and of the peers; the generated service logs in as itself.
USER = "bench"


def start(project: Path, folder: Path) -> tuple[Any, Address]:
    """Start the project's ``rabbitmq/local.py``; returns its LocalBroker, and how to log in.

    :param folder: where the definitions with our user go
    :raises RuntimeError: it doesn't start, with what it said
    """
    local = _load(project / "rabbitmq" / "local.py")
    password = secrets.token_urlsafe(16)
    definitions = folder / "definitions.json"
    known = json.loads((project / "rabbitmq" / "definitions.json").read_text(encoding="utf-8"))
    definitions.write_text(json.dumps(_with_user(known, password)), encoding="utf-8")
    try:
        broker = local.LocalBroker(definitions=definitions)
        try:
            broker.start()
        except BaseException:
            broker.close()
            raise
    except local.BrokerError as error:
        raise RuntimeError(str(error)) from None
    return broker, Address(broker.port, VHOST, USER, password)


def _with_user(definitions: dict[str, Any], password: str) -> dict[str, Any]:
    # The broker hashes the password itself when it reads this.
    user = {"name": USER, "password": password, "tags": []}
    rights = {"user": USER, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    return {
        **definitions,
        "users": [*definitions["users"], user],
        "permissions": [*definitions["permissions"], rights],
    }


def _load(file: Path) -> Any:
    """Import a module that is in no package, with its own modules, not those of another project."""
    for each in file.parent.glob("*.py"):
        sys.modules.pop(each.stem, None)
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("generated_local_broker", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
