"""What an operator pastes into an existing Neon installation to let this service in.

    python rabbitmq/provision.py --print neon [--client-user NAME]

prints YAML documents, one for each place, each under a comment that names it. They hold the service's
password, as the places do; nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from accounts import credentials
from documents import CONFIG, DEFINITIONS, Broken, Document
from topology import (
    SERVICE,
    VHOST,
    asking_rights,
    client_rights,
    declared,
    service_rights,
)

#: Folder, image and container are called after the repository.
SLUG = "<< cookiecutter.service_slug >>"
PACKAGE = "<< cookiecutter.package_name >>"
#: How Neon's services call the broker, on their network and in their configuration.
BROKER = "neon-rabbitmq"


def rights(user: str, client: str) -> list[dict[str, str]]:
    """Permissions on our vhost for the service and for the user that Neon's clients share, and on the vhosts
    of those whom the service asks."""
    return [
        {"user": user, "vhost": VHOST, **service_rights()},
        {"user": client, "vhost": VHOST, **client_rights()},
        *({"user": user, "vhost": each, **asking_rights()} for each in declared().vhosts),
    ]


def definitions(user: str, client: str) -> dict[str, Any]:
    """Our definitions for a broker that has others: without the clients' user, whom it knows."""
    file = Document(DEFINITIONS, 0o640)
    ours = file.load()
    if not ours:
        raise Broken(f"{DEFINITIONS} is missing: run this without --print first")
    kinds = ("users", "vhosts", "exchanges", "queues", "bindings", "policies")
    kept = {key: file.typed(ours.get(key), list, key) for key in kinds}
    users = [
        each for each in kept.pop("users") if isinstance(each, dict) and each.get("name") == user
    ]
    # Vhosts of others are there already.
    kept["vhosts"] = [each for each in kept["vhosts"] if each == {"name": VHOST}]
    return {"users": users, "permissions": rights(user, client), **kept}


def configuration(user: str, password: str) -> dict[str, Any]:
    """The entry in Neon's configuration; `user` is what the code of neon-mq-connector reads."""
    return {"username": user, "user": user, "password": password}


def documents(client: str) -> Iterator[tuple[str, Any]]:
    """Each place, and what goes there.

    :param client: the user that Neon's clients share
    """
    user, password = credentials(Document(CONFIG, 0o600), "--print")
    config = {
        "server": BROKER,
        "port": 5672,
        "users": {SERVICE: configuration(user, password)},
    }
    yield (
        "The installer's map of users, vhosts and permissions (rmq_backend_config.yml): add to its "
        "lists, then let it make the definitions anew.",
        {
            "users": [{"name": user, "password": password, "tags": ["backend", "service"]}],
            "vhosts": [{"name": VHOST}],
            "permissions": rights(user, client),
        },
    )
    yield (
        "The installer's map of users to services (mq_user_mapping.yml): add.",
        {user: [SERVICE]},
    )
    yield (
        "The broker's definitions, for one that runs: save as new.json, then in its container\n"
        "# rabbitmqctl import_definitions new.json\n"
        "# With the two maps above it still takes this for the dead letters: a policy, an exchange, a queue.",
        definitions(user, client),
    )
    yield (
        f"Neon's configuration (diana.yaml; without MQ, mq_config.json): add under users.\n"
        f"# The service in its container then finds it at /config/neon/{CONFIG}.",
        {"MQ": {"users": {SERVICE: configuration(user, password)}}},
    )
    yield (
        "The installation's compose file: add under services, with the network that the broker is on.",
        {
            "services": {
                SLUG: {
                    "container_name": SLUG,
                    "image": f"${{IMAGE:-{SLUG}}}:${{TAG:-latest}}",
                    "environment": {"MQ_SERVER": BROKER},
                    "volumes": [f"./{CONFIG}:/config/neon/{CONFIG}:ro"],
                    "networks": ["diana-backend"],
                    "read_only": True,
                    "tmpfs": ["/tmp"],
                    "cap_drop": ["ALL"],
                    "security_opt": ["no-new-privileges:true"],
                    "stop_grace_period": "30s",
                    "restart": "unless-stopped",
                }
            },
            "networks": {"diana-backend": {}},
        },
    )
    yield from kubernetes(config)


def kubernetes(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A secret, mounted where Neon's charts mount theirs, and a deployment with probes."""
    name = SLUG.replace("_", "-")  # which no name in Kubernetes may have
    yield (
        "Kubernetes: the configuration, mounted at /config/neon.",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-mq"},
            "stringData": {CONFIG: json.dumps(config)},
        },
    )
    health = {
        "exec": {"command": ["python", "-m", PACKAGE, "health"]},
        "periodSeconds": 30,
        "timeoutSeconds": 5,
    }
    container = {
        "name": name,
        "image": f"{SLUG}:latest",
        "readinessProbe": health,
        "livenessProbe": {**health, "failureThreshold": 10},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "mq", "mountPath": "/config/neon", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    labels = {"app": name}
    yield (
        "Kubernetes: the service. Liveness is generous, because a broker that is down is no reason to "
        "restart whoever waits for it.",
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "containers": [container],
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": 10001,
                            "fsGroup": 10001,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "terminationGracePeriodSeconds": 30,
                        "volumes": [
                            {"name": "mq", "secret": {"secretName": f"{name}-mq"}},
                            {"name": "tmp", "emptyDir": {}},
                        ],
                    },
                },
            },
        },
    )


def show(client: str) -> None:
    """Print all documents: YAML, in the part of it that is JSON.

    :raises Broken: something that they are made of is missing; nothing has been printed then
    """
    found = list(documents(client))
    print("this holds the service's password: mind where it goes", file=sys.stderr)
    for place, content in found:
        print(f"---\n# {place}\n{json.dumps(content, indent=2)}\n")
