"""The container as the rendered pod says, run by Docker: no cluster, but the same image, user, mounts and probes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import brokers
import pika
import pytest
from baked import BakedProject
from manifests import Object, copy_secrets, one, pod_of, render, secret
from pages import shell_blocks, type_in
from test_containers import IMAGES, docker, inspect, lacking
from waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(600)]

#: Seconds that a state may take to be seen; this machine may be busy.
SEEN = 90


@pytest.fixture
def image(project: BakedProject) -> Iterator[str]:
    """The image, built as the page says but for its name; it is removed afterwards."""
    if reason := lacking():
        pytest.skip(reason)
    build, *_ = shell_blocks(project.read("docs/kubernetes.md"))
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    assert "neon-echo:0.1.0" in build
    type_in(build.replace("neon-echo:0.1.0", name), project.path)
    yield name
    docker("rmi", "--force", name, check=False)


@pytest.fixture
def network() -> Iterator[str]:
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    if shutil.which("docker"):
        docker("network", "create", name, check=False)
    yield name
    if shutil.which("docker"):
        docker("network", "rm", name, check=False)


def mounted_secret(folder: Path, name: str, text: str, group: int, mode: int) -> Path:
    """A folder as the node makes it of a Secret: root's, for the pod's group, behind a link."""
    if os.geteuid():
        pytest.skip("only root can give a file to the pod's group")
    data = folder / "..2026"
    data.mkdir(parents=True)
    (data / name).write_text(text)
    (data / name).chmod(mode)
    os.chown(data / name, 0, group)
    (folder / "..data").symlink_to(data.name)
    (folder / name).symlink_to(f"..data/{name}")
    for each in (folder, data):
        each.chmod(0o755)
    return folder


def arguments(objects: list[Object], config: Path) -> list[str]:
    """What `docker run` is told, as the pod says it."""
    pod = pod_of(objects)
    [container], context = pod["containers"], pod["securityContext"]
    own = container["securityContext"]
    words = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
    words += ["--group-add", str(context["fsGroup"]), "--memory"]
    words += [container["resources"]["limits"]["memory"].replace("Mi", "m"), "--no-healthcheck"]
    words += [word for each in own["capabilities"]["drop"] for word in ("--cap-drop", each)]
    words += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    words += [] if own["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
    variables = dict(one(objects, "ConfigMap")["data"])
    variables |= {each["name"]: each["value"] for each in container["env"]}
    words += [word for item in variables.items() for word in ("--env", "=".join(item))]
    volumes = {each["name"]: each for each in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume, path = volumes[mount["name"]], mount["mountPath"]
        if "secret" in volume:
            words += ["--volume", f"{config}:{path}:ro"]
        else:
            size = volume["emptyDir"]["sizeLimit"].replace("Mi", "m")
            words += ["--tmpfs", f"{path}:mode=1777,size={size}"]
    return words


@contextmanager
def broker(project: BakedProject, network: str, name: str) -> Iterator[int]:
    """A broker that the pod finds under the name of its Service; yields its port on this machine."""
    with brokers.own_container(IMAGES[1], brokers.files_of(project)) as container:
        docker("network", "connect", "--alias", name, network, container.name)
        yield container.port


def length_as_keda_asks(project: BakedProject, port: int) -> int:
    """The queue's length, as who the overlay says, at the queue that it says, by AMQP."""
    copy_secrets(project, "--broker", f"127.0.0.1:{port}")
    objects = render(project, "overlays/keda")
    [trigger] = one(objects, "ScaledObject")["spec"]["triggers"]
    with pika.BlockingConnection(pika.URLParameters(secret(objects, "host"))) as connection:
        asked = connection.channel().queue_declare(trigger["metadata"]["queueName"], passive=True)
    return int(asked.method.message_count)


def test_the_pod_runs_and_its_probes_say_how_it_is(
    project: BakedProject, image: str, network: str, tmp_path: Path
) -> None:
    copy_secrets(project)
    objects = render(project, "base")
    pod, settings = pod_of(objects), one(objects, "ConfigMap")["data"]
    [container] = pod["containers"]
    [volume] = [each["secret"] for each in pod["volumes"] if "secret" in each]
    text = secret(objects, "mq_config.json")
    group = pod["securityContext"]["fsGroup"]
    config = mounted_secret(
        tmp_path / "secret", "mq_config.json", text, group, volume["defaultMode"]
    )
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    words = ["--detach", "--name", name, "--network", network, *arguments(objects, config), image]
    docker("run", *words)
    try:
        address = inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"]

        def answers(probe: str, status: int) -> Callable[[], bool]:
            [port] = container["ports"]
            path = container[f"{probe}Probe"]["httpGet"]["path"]
            url = f"http://{address}:{port['containerPort']}{path}"

            def ask() -> bool:
                try:
                    with urllib.request.urlopen(url, timeout=30) as answer:
                        return bool(answer.status == status)
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code == status
                except OSError:
                    return False

            return ask

        # Without a broker it is alive and not ready, so that nothing restarts it and an update waits.
        eventually(answers("startup", 200), SEEN)
        eventually(answers("readiness", 503), SEEN)
        with broker(project, network, settings["MQ_SERVER"]) as port:
            eventually(answers("readiness", 200), SEEN)
            said = docker("exec", name, "python", "-m", "neon_echo", "request", '{"text": "hi"}')
            assert json.loads(said)["echo"] == {"text": "hi"}
            assert length_as_keda_asks(project, port) == 0
        eventually(answers("readiness", 503), SEEN)
        assert answers("liveness", 200)()
        assert all(json.loads(line) for line in docker("logs", name).splitlines()), "LOG_FORMAT"
        docker("stop", "--time", str(pod["terminationGracePeriodSeconds"]), name)
        state = inspect(name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60)
