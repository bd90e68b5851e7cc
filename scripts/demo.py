"""The main job, from nothing: generate a service, start it, ask it, edit it, ask it again.

Runs on a private RabbitMQ where rabbitmq-server is installed, otherwise in containers. Everything it
makes lies in a temporary folder and is gone afterwards.
"""

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parent.parent
BEFORE = 'return {"echo": request}'
AFTER = 'return {"shout": request["text"].upper()}'
#: Seconds for the slowest step, the build of an image.
PATIENCE = 600

Command = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    print(f"· {text} … ", end="", flush=True)
    begin = time.monotonic()
    yield
    print(f"{time.monotonic() - begin:.1f} s", flush=True)


def ask(service: Command) -> None:
    """Send the request and show the reply."""
    request = json.dumps({"text": "hi"})
    begin = time.monotonic()
    done = service("request", request, "--timeout", "20")
    if done.returncode:
        sys.exit(f"demo: the request failed: {done.stderr.strip()}")
    print(
        f"  request {request}\n  reply   {done.stdout.strip()}   ({time.monotonic() - begin:.1f} s)"
    )


def wait_until_healthy(service: Command, process: subprocess.Popen[bytes]) -> bool:
    """The health check is true only while the broker has a consumer of the service."""
    deadline = time.monotonic() + 60
    while service("health").returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def edit(project: Path) -> None:
    """What a user does first: change what the handler answers."""
    source = project / "src" / "neon_echo" / "service.py"
    text = source.read_text(encoding="utf-8")
    if BEFORE not in text:
        sys.exit(f"demo: {source} no longer has the line {BEFORE!r}")
    source.write_text(text.replace(BEFORE, AFTER), encoding="utf-8")


def in_processes(project: Path, stack: ExitStack) -> None:
    """On a private RabbitMQ, with the service as a process of this machine."""
    sys.path.insert(0, str(project / "rabbitmq"))
    from local import LocalBroker  # the generated repository's own

    with step("start a private RabbitMQ"):
        broker = stack.enter_context(LocalBroker())
    environment = {
        **os.environ,
        "PYTHONPATH": str(project / "src"),
        "MQ_PORT": str(broker.port),
        "NEON_MQ_CONFIG_PATH": str(project / "mq_config.json"),
        "XDG_RUNTIME_DIR": str(project.parent),
    }

    def service(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "neon_echo", *words]
        return subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=60
        )

    @contextmanager
    def running() -> Iterator[None]:
        # The service's log would cut into what is shown; it is printed where the service fails.
        log = project / "service.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "neon_echo"], cwd=project, env=environment, stderr=stderr
            )
        try:
            if not wait_until_healthy(service, process):
                sys.exit(f"demo: the service isn't consuming:\n{log.read_text()}")
            yield
        finally:
            process.terminate()
            process.wait(40)

    with ExitStack() as first:
        with step("start the service"):
            first.enter_context(running())
        ask(service)
    with step(f"edit the handler to `{AFTER}` and start it again"):
        edit(project)
        stack.enter_context(running())
    ask(service)


def in_containers(project: Path, stack: ExitStack) -> None:
    """With Docker Compose, as a user would."""
    name = f"neon-echo-demo-{os.getpid()}"
    base = ["docker", "compose", "--project-name", name]
    os.environ["IMAGE"] = name  # not that of a copy that somebody works with

    def compose(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*base, *words], cwd=project, capture_output=True, text=True, timeout=PATIENCE
        )

    def service(*words: str) -> subprocess.CompletedProcess[str]:
        return compose("exec", "--no-TTY", "service", "python", "-m", "neon_echo", *words)

    def up() -> None:
        done = compose("up", "--build", "--detach", "--wait")
        if done.returncode:
            sys.exit(f"demo: docker compose up failed:\n{done.stderr}")

    remove = ["docker", "image", "rm", "--force", f"{name}:latest"]
    stack.callback(subprocess.run, remove, capture_output=True, timeout=PATIENCE)
    stack.callback(compose, "down", "--volumes")
    with step("docker compose up"):
        up()
    ask(service)
    with step(f"edit the handler to `{AFTER}` and bring it up again"):
        edit(project)
        up()
    ask(service)


def main() -> None:
    sys.path.insert(0, str(TEMPLATE / "scripts"))
    from ensure_broker import trouble

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="neon-demo-") as folder, ExitStack() as stack:
        with step("generate a service"):
            os.environ["COOKIECUTTER_CONFIG"] = os.devnull
            project = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=folder))
        (in_containers if trouble() else in_processes)(project, stack)
    print(f"done in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
