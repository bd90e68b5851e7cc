"""The health check: well only while every running service of this name truly consumes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mq_connector import health
from mq_connector.errors import ConfigurationError
from mq_connector.health import HealthServer, check, folder

Done = Callable[[str], None]
NAME = "neon_echo"


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own for sockets, whose paths must be short."""
    place = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setattr(health, "ANSWER_WITHIN", 0.2)
    return place


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Done], None]], HealthServer]]:
    servers: list[HealthServer] = []

    def start(look: Callable[[Done], None]) -> HealthServer:
        servers.append(HealthServer(NAME, look))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[[Callable[[Done], None]], HealthServer]


def test_a_service_that_consumes_is_well(serve: Serve) -> None:
    serve(lambda done: done(""))
    assert check(NAME) == (True, "consuming")
    assert check(NAME) == (True, "consuming"), "and may be asked again"


def test_a_service_that_is_well_and_busy_says_both() -> None:
    busy = "every worker of 'in' has been in its handler for 5 s"
    server = HealthServer(NAME, lambda done: done(""), lambda: busy)
    try:
        assert check(NAME) == (True, f"consuming; process {os.getpid()}: {busy}")
    finally:
        server.close()


def test_a_look_that_fails_is_no_good_sign_and_not_the_end_of_looking(serve: Serve) -> None:
    answers = iter([False, True])

    def look(done: Done) -> None:
        if not next(answers):
            raise RuntimeError("no such thing")
        done("")

    serve(look)
    well, reason = check(NAME)
    assert not well and reason.endswith("the service can't tell: RuntimeError: no such thing")
    assert check(NAME) == (True, "consuming")


def test_a_look_at_who_is_busy_that_fails_is_not_the_end_of_looking() -> None:
    def busy() -> str:
        raise RuntimeError("dictionary changed size during iteration")

    said = health.answer(lambda done: done(""), busy)
    assert said == "the service can't tell: RuntimeError: dictionary changed size during iteration"


def test_a_service_that_does_not_consume_says_why(serve: Serve) -> None:
    serve(lambda done: done("not consuming 'in': connection refused"))
    assert check(NAME) == (
        False,
        f"process {os.getpid()}: not consuming 'in': connection refused",
    )


def test_the_answer_may_come_from_another_thread(serve: Serve) -> None:
    serve(lambda done: threading.Timer(0.05, done, [""]).start())
    assert check(NAME)[0]


def test_a_second_process_that_does_not_consume_makes_all_unwell(serve: Serve) -> None:
    serve(lambda done: done(""))
    program = (
        "import sys; from mq_connector.health import HealthServer;"
        f"server = HealthServer({NAME!r}, lambda done: done('stuck'));"
        "print('ready', flush=True); sys.stdin.read(); server.close()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(health.__file__).parent.parent)}
    command = [sys.executable, "-B", "-c", program]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        # Its socket lies in the same folder, because it uses the same copy of the connector.
        assert check(NAME) == (False, f"process {other.pid}: stuck")
        assert other.stdin is not None
        other.stdin.close()
    assert check(NAME) == (True, "consuming")


def test_sockets_lie_in_a_folder_that_only_their_user_may_enter(
    serve: Serve, runtime: Path
) -> None:
    serve(lambda done: done(""))
    assert folder(NAME).parent == runtime
    assert folder(NAME).stat().st_mode & 0o777 == 0o700


def test_the_asking_side_loads_neither_pika_nor_the_service(runtime: Path) -> None:
    program = (
        "import sys; from mq_connector.health import check; print(check('nobody'));"
        "print(sorted(name for name in sys.modules if name in ('pika', 'dotenv', 'argparse', 'ssl')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(health.__file__).parent.parent)}
    command = [sys.executable, "-B", "-c", program]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout == "(False, 'no nobody is running here')\n[]\n"


def elsewhere(place: Path, name: str = NAME) -> str:
    """What `folder` says in the copy of the connector at another place."""
    code = f"from mq_connector.health import folder; print(folder({name!r}))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_by_whatever_path_a_service_is_reached_it_is_found(tmp_path: Path) -> None:
    there = Path(health.__file__).parent
    (tmp_path / "link").symlink_to(there.parent)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "mq_connector").symlink_to(there)
    for place in (there.parent, tmp_path / "link", tmp_path / "package"):
        assert elsewhere(place) == str(folder(NAME))


def test_each_service_and_each_copy_has_a_folder_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(Path(health.__file__).parent, tmp_path / "mq_connector")
    there = Path(health.__file__).parent.parent
    folders = {elsewhere(there), elsewhere(tmp_path), elsewhere(there, f"{NAME}_2")}
    assert len(folders) == 3


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
@pytest.mark.parametrize(("size", "fits"), [(49, True), (78, True), (79, False), (400, False)])
def test_a_folder_with_a_long_name_is_left_for_a_shorter_one(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    size: int,
    fits: bool,
) -> None:
    """macOS's folder for temporary files has 49 bytes, and a socket's path may have 103 there."""
    short = tempfile.mkdtemp(dir="/tmp")
    parts = [short]
    while (left := size - len("/".join(parts)) - 1) > 0:
        parts.append("x" * min(left, 200))
    long = "/".join(parts)
    Path(long).mkdir(parents=True, exist_ok=True)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv(variable, long)
    service = f"{'a' * 63}_{uuid.uuid4().hex}"
    server = HealthServer(service, lambda done: done(""))
    try:
        assert check(service) == (True, "consuming")
        assert str(folder(service).parent) == (long if fits else "/tmp")
    finally:
        server.close()
        shutil.rmtree(short)


@pytest.mark.parametrize("logged_in", ["who asks", "the service"])
def test_a_service_of_systemd_is_found_by_its_user_s_login_and_the_other_way_round(
    serve: Serve, runtime: Path, monkeypatch: pytest.MonkeyPatch, logged_in: str
) -> None:
    """Only who logs in has a runtime folder."""
    logins, temporary = runtime / "user", runtime / "tmp"
    login = logins / str(os.getuid())
    for each in (login, temporary):
        each.mkdir(parents=True)
    monkeypatch.setattr(health, "_LOGINS", str(logins))
    monkeypatch.setattr(health, "_TEMPORARY", str(temporary))
    monkeypatch.delenv("TMPDIR", raising=False)

    def become(has_runtime: bool) -> None:
        if has_runtime:
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(login))
        else:
            monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    become(logged_in == "the service")
    serve(lambda done: done(""))
    become(logged_in == "who asks")
    assert check(NAME) == (True, "consuming")
    folder(NAME).mkdir(mode=0o777)
    folder(NAME).chmod(0o777)
    assert "others may write to it" in check(NAME)[1], "as before, in the usual folder"
    folder(NAME).rmdir()
    become(logged_in == "the service")
    folder(NAME).chmod(0o777)
    become(logged_in == "who asks")
    assert check(NAME) == (False, f"no {NAME} is running here"), "a folder of anybody's isn't asked"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "chosen"))
    assert check(NAME) == (False, f"no {NAME} is running here"), "nor any but a chosen one"


# ---- failures


def test_without_a_running_service_nothing_is_well() -> None:
    assert check(NAME) == (False, f"no {NAME} is running here")


def test_a_service_that_has_stopped_is_not_running_any_more(serve: Serve) -> None:
    before = threading.active_count()
    server = serve(lambda done: done(""))
    assert check(NAME)[0]
    time.sleep(0.05)  # until it waits for the next one who asks
    server.close()
    server.close()
    assert check(NAME) == (False, f"no {NAME} is running here")
    assert not folder(NAME).exists(), "nothing of it is left behind"
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline, "its thread is left behind"
        time.sleep(0.005)


def test_the_folder_stays_while_another_process_has_its_socket_there(serve: Serve) -> None:
    server = serve(lambda done: done(""))
    other = folder(NAME) / "4000000.sock"
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(other))
        running.listen()
        server.close()
        assert list(folder(NAME).iterdir()) == [other]


def test_a_folder_that_another_process_takes_away_just_then_is_made_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that ends takes it away, while the next one is about to put its socket there."""
    times, really = [0], health._is_ours

    def gone(path: Path) -> bool:
        is_ours = really(path)
        times[0] += 1
        if times[0] <= 2:
            path.rmdir()
        return is_ours

    monkeypatch.setattr(health, "_is_ours", gone)
    serve(lambda done: done(""))
    assert check(NAME) == (True, "consuming")
    assert times[0] >= 3


def test_a_folder_that_goes_while_somebody_asks_is_no_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder(NAME).mkdir()
    really = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path == folder(NAME) and path.exists():
            path.rmdir()
        return really(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert check(NAME) == (False, f"no {NAME} is running here")


def test_a_socket_can_be_asked_as_soon_as_it_is_seen(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks takes one that refuses him for a dead process's, and removes it."""
    seen: list[list[str]] = []
    really = socket.socket.listen

    def listen(self: socket.socket, backlog: int = 8) -> None:
        seen.append([path.name for path in folder(NAME).glob("*.sock")])
        really(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    serve(lambda done: done(""))
    assert seen == [[]]
    assert check(NAME) == (True, "consuming")


def test_the_socket_of_a_process_that_was_killed_is_taken_away(serve: Serve) -> None:
    folder(NAME).mkdir()
    stale = folder(NAME) / "4000000.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(stale))
    assert stale.exists()
    assert check(NAME) == (False, f"no {NAME} is running here")
    assert not stale.exists()


def test_a_service_starts_although_its_number_was_that_of_a_killed_one(serve: Serve) -> None:
    folder(NAME).mkdir()
    (folder(NAME) / f"{os.getpid()}.sock").touch()
    serve(lambda done: done(""))
    assert check(NAME)[0]


def test_a_broker_that_does_not_answer_makes_the_service_unwell(serve: Serve) -> None:
    serve(lambda done: None)
    began = time.monotonic()
    well, reason = check(NAME)
    assert not well
    assert reason.endswith("the broker hasn't answered within 0.2 s")
    assert time.monotonic() - began < 2


def test_a_process_that_hangs_is_unwell_after_a_while() -> None:
    folder(NAME).mkdir()
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(folder(NAME) / "7.sock"))
        hanging.listen()
        well, reason = check(NAME)
    assert not well
    assert reason == "process 7: no answer (timed out)"


def test_a_process_that_ends_while_it_is_asked_is_unwell() -> None:
    folder(NAME).mkdir()
    with socket.socket(socket.AF_UNIX) as ending:
        ending.bind(str(folder(NAME) / "7.sock"))
        ending.listen()
        threading.Thread(target=lambda: ending.accept()[0].close()).start()
        assert check(NAME) == (False, "process 7: no answer")


def test_who_asks_and_leaves_does_not_end_the_server(serve: Serve) -> None:
    serve(lambda done: threading.Timer(0.05, done, ["x" * 100]).start())
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as impatient:
            impatient.connect(str(folder(NAME) / f"{os.getpid()}.sock"))
    assert "xxx" in check(NAME)[1]


def test_where_no_socket_can_be_the_start_fails_with_one_line(runtime: Path) -> None:
    folder(NAME).touch()
    with pytest.raises(
        ConfigurationError, match=r"socket can't be made.*XDG_RUNTIME_DIR"
    ) as raised:
        HealthServer(NAME, lambda done: done(""))
    assert "\n" not in str(raised.value)
