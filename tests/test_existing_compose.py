"""The compose entry that `provision.py --print neon` prints, beside a Neon broker on its own network."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from baked import BakedProject, bake_into
from provisioning import provision
from test_containers import docker, lacking

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(600)]

#: As whom the image runs, as docs/add-to-neon.md says.
IMAGE_USER = 10001


class Installation:
    """A Neon system's compose file: its broker, under its alias, on a network of its own."""

    def __init__(self, folder: Path, existing: BakedProject) -> None:
        self.folder = folder
        self.name = f"neon-test-{uuid.uuid4().hex[:8]}"
        files = ("rabbitmq.conf", "enabled_plugins", "definitions.json")
        for name in files:
            (folder / name).write_bytes((existing / "rabbitmq" / name).read_bytes())
            (folder / name).chmod(0o644)
        ours = yaml.safe_load(existing.read("compose.yaml"))
        broker = {
            "image": "rabbitmq:4.3-management",
            "networks": {"diana-backend": {"aliases": ["neon-rabbitmq"]}},
            "volumes": [f"./{name}:/etc/rabbitmq/{name}:ro" for name in files],
            "ulimits": {"nofile": 16384},
            # Ours, as one that asks every two seconds keeps half a processor busy.
            "healthcheck": ours["services"]["rabbitmq"]["healthcheck"],
        }
        self.write({"services": {"broker": broker}, "networks": {"diana-backend": {}}})

    def write(self, compose: object) -> None:
        (self.folder / "compose.yaml").write_text(json.dumps(compose), encoding="utf-8")

    def read(self) -> dict[str, dict[str, object]]:
        text = (self.folder / "compose.yaml").read_text(encoding="utf-8")
        found: dict[str, dict[str, object]] = json.loads(text)
        return found

    def compose(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.name, *words],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if not key.startswith("MQ_")},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    if reason := lacking():
        pytest.skip(reason)
    existing = bake_into(tmp_path / "existing", {"service_name": "Neon Old"})
    provision(existing, "--client-user")
    # Not below pytest's own folder, which the containers' users may not enter.
    with tempfile.TemporaryDirectory(prefix="neon-mq-") as folder:
        Path(folder).chmod(0o755)
        made = Installation(Path(folder), existing)
        try:
            made.compose("up", "--detach", "--wait")
            yield made
        finally:
            made.compose("down", "--volumes", "--remove-orphans", check=False)


def test_the_service_is_at_home_in_the_installation(
    installation: Installation, tmp_path: Path
) -> None:
    name = f"Newcomer {uuid.uuid4().hex[:6]}"  # whose image nobody else has
    newcomer = bake_into(tmp_path / "newcomer", {"service_name": name})
    slug, package = newcomer.answers["service_slug"], newcomer.answers["package_name"]
    printed = newcomer.run("python", "rabbitmq/provision.py", "--print", "neon").stdout
    _, _, definitions, configuration, compose, *_ = yaml.safe_load_all(printed)

    new = installation.folder / "new.json"
    new.write_text(json.dumps(definitions), encoding="utf-8")
    installation.compose("cp", str(new), "broker:/tmp/new.json")
    installation.compose(
        "exec", "-T", "broker", "rabbitmqctl", "import_definitions", "/tmp/new.json"
    )

    config = installation.folder / "mq_config.json"
    config.write_text(json.dumps(configuration["MQ"]), encoding="utf-8")
    config.chmod(0o600)
    os.chown(config, IMAGE_USER, IMAGE_USER)

    whole = installation.read()
    whole["services"] |= compose["services"]
    whole["networks"] |= compose["networks"]
    installation.write(whole)
    docker("build", "--quiet", "--tag", f"{slug}:latest", str(newcomer.path), timeout=240)
    try:
        installation.compose("up", "--detach", "--wait")
        inside = ("exec", "-T", slug, "python", "-m", package)
        reply = json.loads(installation.compose(*inside, "request", '{"text": "hi"}'))
        assert reply["echo"] == {"text": "hi"}
        assert "FAIL" not in installation.compose(*inside, "doctor")
    finally:
        installation.compose("rm", "--stop", "--force", slug, check=False)
        docker("image", "rm", "--force", f"{slug}:latest", check=False)
