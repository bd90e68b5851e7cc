"""The containers that Docker Compose runs for this folder, whatever it calls them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from documents import ROOT, Broken
from owners import NUMBERED

SLUG = "<< cookiecutter.service_slug >>"
#: Seconds that the engine gets to answer, and a container to become healthy.
ANSWER, HEALTHY = 60, 120
#: Seconds that a container gets to stop: `stop_grace_period` in compose.yaml.
GRACE = 30
#: Seconds after which somebody who waits is told for what.
SILENT = 1.0
#: Labels that Compose gives to what it starts.
LABEL = "com.docker.compose"


@contextmanager
def patiently(what: str) -> Iterator[None]:
    """Say what is being waited for where that takes more than a moment and somebody looks on."""

    def say() -> None:
        print(f"waiting for {what} ...", file=sys.stderr, flush=True)

    late = threading.Timer(SILENT, say)
    late.daemon = True
    if sys.stderr.isatty():
        late.start()
    try:
        yield
    finally:
        late.cancel()


@contextmanager
def alone(refusal: str = "") -> Iterator[None]:
    """Keep a second run out: the two would make the password of one and the configuration of the other.

    :param refusal: what is said where another one is at it; without, it is waited for
    :raises Broken: another one is at it
    """
    if not NUMBERED:  # Windows can't lock a folder.
        yield
        return
    import fcntl

    handle = os.open(ROOT / "rabbitmq", os.O_RDONLY)
    try:
        try:
            with patiently("another run of this to end"):
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise Broken(refusal) from None
        yield
    finally:
        os.close(handle)


def docker(*words: str) -> str:
    """What the engine answers.

    :raises Broken: there is no engine, or it says no
    """
    if shutil.which("docker") is None:
        raise Broken("there is no docker command here")
    try:
        with patiently(f"docker {words[0]}"):
            done = subprocess.run(
                ["docker", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=ANSWER + GRACE,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Broken(f"docker {words[0]}: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Broken(f"docker {words[0]}: {said[-1]}")
    return done.stdout.strip()


def running(service: str) -> list[str]:
    """Ids of the containers that run for a service of this folder's compose.yaml.

    :raises Broken: there is no engine to ask
    """
    shown = f'{{{{.ID}}}}\t{{{{.Label "{LABEL}.project.working_dir"}}}}'
    found = docker(
        "ps", "--filter", f"label={LABEL}.service={service}", "--format", shown
    ).splitlines()
    pairs = [line.partition("\t") for line in found]
    return sorted(name for name, _, folder in pairs if folder and Path(folder).resolve() == ROOT)


def restart(container: str, since: float) -> bool:
    """Have a container see a file that was replaced: it has the old one until its next start.

    :param since: when that was, as a file's status says it; one that has started later is left alone
    :returns: whether it was restarted
    :raises Broken: it doesn't become healthy again
    """
    from datetime import datetime

    started = docker("inspect", "--format", "{{.State.StartedAt}}", container)
    if datetime.fromisoformat(f"{started[:19]}+00:00").timestamp() > since:
        return False
    docker("restart", "--time", str(GRACE), container)
    deadline = time.monotonic() + HEALTHY
    with patiently(f"the container {container} to be healthy"):
        while docker("inspect", "--format", "{{.State.Health.Status}}", container) != "healthy":
            if time.monotonic() > deadline:
                raise Broken(
                    f"the container {container} isn't healthy {HEALTHY} s after its restart: "
                    f"see docker logs {container}"
                )
            time.sleep(0.5)
    return True


def project(is_new: bool) -> str:
    """What Docker Compose is to call what it starts: always the same in this folder, other in other folders.

    :param is_new: whether nothing of this copy can have run yet
    :returns: empty where the copy may have a volume under the name in compose.yaml
    """
    name = f"{SLUG}-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:6]}"
    if not is_new:
        try:
            docker("volume", "inspect", f"{name}_rabbitmq")
        except Broken:
            return ""
    return name
