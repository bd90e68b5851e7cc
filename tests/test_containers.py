"""The generated compose file, started for real: a broker and the service that answers through it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brokers
import pytest
from baked import SECRETS, BakedProject, bake_into
from running import Service, free_port
from test_rotate import load_of_requests, login, may_log_in
from waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(600)]

#: A user that needs no entry in /etc/passwd; the image's own is 10001.
ORDINARY_USER = 12345
IMAGES = ("python:3.13-slim", "rabbitmq:4.3-management")
#: Bytes that the image may have beyond its base.
IMAGE_BUDGET = 8_000_000


def docker(*words: str, timeout: float = 60, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def inspect(what: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", what))
    return found[0]


def lacking() -> str:
    """What this machine lacks to run containers; empty if nothing."""
    if not shutil.which("docker"):
        return "no docker command on this machine"
    for words in (["info"], ["compose", "version"]):
        if subprocess.run(["docker", *words], capture_output=True, timeout=60).returncode:
            return f"`docker {' '.join(words)}` fails on this machine"
    for image in IMAGES:
        brokers.need_image(image)
    return ""


@dataclass(frozen=True)
class Stack:
    """A generated repository whose containers run."""

    project: BakedProject
    #: The compose project: what its containers, volume and images are called after.
    name: str
    #: Keywords for subprocess: who types the commands.
    user: dict[str, Any]

    def command(self, *words: str) -> list[str]:
        return ["docker", "compose", "--project-name", self.name, *words]

    @property
    def environment(self) -> dict[str, str]:
        """A home of its own for docker, and nothing that would override .env."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MQ_")}
        return {**kept, "HOME": str(self.project.path.parent)}

    def compose(
        self, *words: str, timeout: float = 240, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            cwd=self.project.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            **self.user,
        )
        if check and done.returncode:
            logs = subprocess.run(
                self.command("logs"), cwd=self.project.path, capture_output=True, text=True
            )
            raise AssertionError(f"{words}:\n{done.stdout}{done.stderr}\n{logs.stdout}")
        return done

    def up(self) -> None:
        self.compose("up", "--build", "--detach", "--wait")

    def inside(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's container."""
        return self.compose("exec", "-T", "service", *words, check=check, timeout=60)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request from within the container, as the project's README says."""
        done = self.inside("python", "-m", "neon_echo", "request", json.dumps(request))
        reply: dict[str, Any] = json.loads(done.stdout)
        return reply

    def provision(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run provision.py as whoever types the commands."""
        return subprocess.run(
            [python_of(self.user), "-B", "rabbitmq/provision.py", *words],
            cwd=self.project.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            **self.user,
        )

    def container(self, service: str) -> dict[str, Any]:
        return inspect(f"{self.name}-{service}-1")

    def remove(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", check=False)
        docker("image", "rm", "--force", f"{self.name}:latest", check=False)
        # What a rebuild has replaced has lost its name, but not its label.
        mine = f"label=com.docker.compose.project={self.name}"
        docker("image", "prune", "--force", "--filter", mine, check=False)


def python_of(user: dict[str, Any]) -> str:
    """A Python that a user may run: the tests' own may lie where only root can go."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            new = [path, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
            if subprocess.run(new, cwd="/", **user).returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip("no Python 3.10 on this machine that an ordinary user may run")


def give_to_ordinary_user(project: BakedProject) -> dict[str, Any]:
    """Hand the repository to another user, who makes his own credentials, as after a clone.

    A strict umask keeps his files from everybody else. He has the Python of the image, because the
    tests' own may lie where only root can go.

    :returns: keywords for subprocess that make a command his
    """
    for secret in SECRETS:
        (project / secret).unlink()
    for path in [project.path.parent, *project.path.parent.rglob("*")]:
        os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)
        path.chmod(path.stat().st_mode & 0o700)
    mount = f"{project.path}:{project.path}"
    user = ("--user", f"{ORDINARY_USER}:{ORDINARY_USER}")
    make = ("sh", "-c", "umask 077; exec python rabbitmq/provision.py")
    docker("run", "--rm", *user, "-v", mount, "-w", str(project.path), IMAGES[0], *make)
    # The engine's socket belongs to a group; whoever is in it may give it orders.
    engine = os.stat("/var/run/docker.sock").st_gid
    return {"user": ORDINARY_USER, "group": ORDINARY_USER, "extra_groups": [engine], "umask": 0o077}


@pytest.fixture(scope="module", params=["root", "an ordinary user"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The containers of a repository that was generated by root, or by an ordinary user."""
    if reason := lacking():
        pytest.skip(reason)
    root = os.geteuid() == 0
    if request.param == "root" and not root:
        pytest.skip("only root can generate as root")
    # Not below pytest's own folder, which no other user may enter.
    home = Path(tempfile.mkdtemp(prefix="neon-mq-"))
    home.chmod(0o711)
    try:
        project = bake_into(home / "generated")
        user = give_to_ordinary_user(project) if root and request.param != "root" else {}
        amqp, management = free_port(), free_port()
        name = f"neon-test-{uuid.uuid4().hex[:8]}"
        with (project / ".env").open("a", encoding="utf-8") as env:
            env.write(f"\nMQ_PORT={amqp}\nMQ_MANAGEMENT_PORT={management}\n")
            env.write(f"MQ_BROKER_METRICS_PORT={free_port()}\n")
            # Other tests build images of the same slug at the same time.
            env.write(f"IMAGE={name}\n")
        running = Stack(project, name, user)
        try:
            running.up()
            yield running
        finally:
            running.remove()
    finally:
        shutil.rmtree(home)


def test_up_answers_a_request_from_inside_the_container(stack: Stack) -> None:
    assert stack.ask(text="hi")["echo"]["text"] == "hi"


def test_up_answers_a_request_from_the_host_through_the_published_port(stack: Stack) -> None:
    done = stack.project.run(
        "python", "-m", "neon_echo", "request", '{"text": "from the host"}', timeout=60
    )
    assert json.loads(done.stdout)["echo"]["text"] == "from the host"


def test_both_containers_are_healthy(stack: Stack) -> None:
    for service in ("rabbitmq", "service"):
        assert stack.container(service)["State"]["Health"]["Status"] == "healthy", service


def test_the_service_runs_as_the_owner_of_its_configuration_and_not_as_root(stack: Stack) -> None:
    owner = (stack.project / "mq_config.json").stat()
    assert owner.st_uid != 0
    assert owner.st_mode & 0o077 == 0
    assert stack.inside("id", "-u").stdout.strip() == str(owner.st_uid)


def test_the_service_has_no_rights_that_it_does_not_need(stack: Stack) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in stack.inside("cat", "/proc/1/status").stdout.splitlines()
        if ":\t" in line
    )
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for folder in ("/app", "/config/neon", "/etc"):
        denied = stack.inside("touch", f"{folder}/x", check=False)
        assert "Read-only file system" in denied.stderr, folder
    limits = stack.container("service")["HostConfig"]
    assert all(limits[name] > 0 for name in ("Memory", "PidsLimit", "NanoCpus"))


def test_the_broker_is_reachable_from_this_machine_only(stack: Stack) -> None:
    ports = stack.container("rabbitmq")["NetworkSettings"]["Ports"]
    published = {port: bindings for port, bindings in ports.items() if bindings}
    assert set(published) == {"5672/tcp", "15672/tcp", "15692/tcp"}
    assert {each["HostIp"] for bindings in published.values() for each in bindings} == {"127.0.0.1"}


def test_the_image_holds_no_credentials(stack: Stack, tmp_path: Path) -> None:
    config = json.loads(stack.project.read("mq_config.json"))
    password = config["users"]["neon_echo"]["password"]
    image = stack.container("service")["Image"]
    assert password not in docker("image", "history", "--no-trunc", image)
    assert password not in docker("image", "inspect", image)
    # The image's files, without what compose mounts.
    container = docker("create", "--name", f"{stack.name}-files", image)
    try:
        docker("export", "--output", str(tmp_path / "files.tar"), container)
    finally:
        docker("rm", container)
    with tarfile.open(tmp_path / "files.tar") as files:
        names = set()
        for member in files:
            names.add(member.name)
            content = files.extractfile(member) if member.isfile() else None
            assert content is None or password.encode() not in content.read(), member.name
    assert "app/neon_echo/service.py" in names
    assert not {Path(name).name for name in names} & {Path(secret).name for secret in SECRETS}


def test_the_image_is_small(stack: Stack) -> None:
    size = inspect(stack.container("service")["Image"])["Size"]
    assert size - inspect(IMAGES[0])["Size"] <= IMAGE_BUDGET


def test_nothing_is_compiled_when_the_service_starts(stack: Stack) -> None:
    verbose = stack.inside("python", "-v", "-c", "import neon_echo.service").stderr
    origin = "# code object from "
    loaded = [line for line in verbose.splitlines() if line.startswith(origin) and "/app/" in line]
    assert any("pika" in line for line in loaded)
    assert [line for line in loaded if not line.endswith(".pyc'")] == []


@contextmanager
def watched(stack: Stack) -> Iterator[tuple[Path, Path]]:
    """`docker compose watch`; yields the handler's file, which may be edited, and what the command says."""
    handler = stack.project.package / "service.py"
    original = handler.read_text(encoding="utf-8")
    log = stack.project.path.parent / "watch.log"
    with log.open("w") as output:
        watch = subprocess.Popen(
            stack.command("watch"),
            cwd=stack.project.path,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **stack.user,
        )
    try:
        eventually(lambda: "Watch enabled" in log.read_text(), 60, log.read_text)
        yield handler, log
    finally:
        # As a terminal does it: to docker and to its plugin, because older ones don't pass it on.
        os.killpg(watch.pid, signal.SIGINT)
        watch.wait(30)
        handler.write_text(original, encoding="utf-8")
        stack.up()


def test_an_edited_handler_is_live_within_seconds(stack: Stack) -> None:
    with watched(stack) as (handler, log):
        original = handler.read_text(encoding="utf-8")
        edited = original.replace(
            'return {"echo": request}', 'return {"echo": request, "edited": True}'
        )
        assert edited != original
        handler.write_text(edited, encoding="utf-8")
        # The container is replaced meanwhile, so a question may find none.
        asked = ["python", "-m", "neon_echo", "request", '{"text": "hi"}']
        eventually(lambda: "edited" in stack.inside(*asked, check=False).stdout, what=log.read_text)
    assert "edited" not in stack.ask(text="hi")


def test_what_cant_be_imported_fails_the_build_and_the_container_goes_on(stack: Stack) -> None:
    before = stack.container("service")["Id"]
    with watched(stack) as (handler, log):
        original = handler.read_text(encoding="utf-8")
        handler.write_text(f"{original}\nimport nothing_there\n", encoding="utf-8")
        eventually(lambda: "No module named 'nothing_there'" in log.read_text(), 60, log.read_text)
        assert stack.ask(text="still")["echo"]["text"] == "still"
        now = stack.container("service")
        assert (now["Id"], now["RestartCount"]) == (before, 0)


def test_the_service_finds_a_restarted_broker_again(stack: Stack) -> None:
    stack.compose("stop", "rabbitmq")
    assert stack.inside("python", "-m", "neon_echo", "health", check=False).returncode != 0
    stack.compose("start", "rabbitmq")
    stack.compose("up", "--detach", "--wait")
    assert stack.ask(text="again")["echo"]["text"] == "again"


def test_stop_is_graceful(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("stop", "service")
    state = stack.container("service")["State"]
    # 137 would be a kill: the signal did not arrive, or the drain took longer than its grace.
    assert state["ExitCode"] == 0, stack.compose("logs", "service").stdout
    assert time.monotonic() - began < 10
    stack.up()


def test_the_password_is_rotated_while_requests_go_on(stack: Stack, tmp_path: Path) -> None:
    """The file is mounted by itself: a container sees another one in its place after a restart only."""
    project = stack.project
    port = int(project.read(".env").rpartition("MQ_PORT=")[2].split()[0])
    first = login(project)
    owner = (project / "mq_config.json").stat()
    with load_of_requests(Service(project, port, tmp_path)) as sent:
        done = stack.provision("--rotate")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "was restarted, and logs in as neon_echo.second" in done.stdout
    assert not may_log_in(port, *first) and may_log_in(port, *login(project))
    assert stack.container("service")["RestartCount"] == 0, "drained, not failed"
    assert stack.ask(text="after")["echo"]["text"] == "after"
    now = (project / "mq_config.json").stat()
    assert (now.st_uid, now.st_mode) == (owner.st_uid, owner.st_mode)

    def waiting() -> str:
        words = ("rabbitmqctl", "-q", "list_queues", "-p", "/neon_echo", "messages")
        return stack.compose("exec", "-T", "rabbitmq", *words).stdout

    assert len(sent) > 40
    # Each was handled, and none is a dead letter.
    eventually(lambda: set(waiting().split()) == {"messages", "0"}, 60, waiting)
    checked = stack.provision("--check")
    assert checked.returncode == 0 and "wasn't asked" not in checked.stdout, checked.stdout
    # The broker begins anew with what the definitions say.
    stack.compose("restart", "rabbitmq")
    stack.compose("up", "--detach", "--wait")
    assert stack.ask(text="again")["echo"]["text"] == "again"
    assert not may_log_in(port, *first)


def test_missing_credentials_are_named_and_no_folder_takes_their_place(stack: Stack) -> None:
    config = stack.project / "mq_config.json"
    aside = config.rename(stack.project.path.parent / "aside.json")
    try:
        done = stack.compose(
            "up", "--detach", "--force-recreate", "--no-deps", "service", check=False
        )
        assert done.returncode != 0
        assert "mq_config.json" in done.stderr
        assert not config.exists()
    finally:
        aside.rename(config)
        stack.up()
