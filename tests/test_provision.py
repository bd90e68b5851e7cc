"""provision.py makes what is missing, keeps what is there, and gives nothing away."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import provisioning
import pytest
from baked import SECRETS, BakedProject
from conftest import Bake
from provisioning import (
    CONFIG,
    COOKIE,
    DEFINITIONS,
    change,
    everything,
    load,
    password_fits,
    provision,
)


@pytest.fixture
def clone(project: BakedProject) -> BakedProject:
    return provisioning.clone(project)


def test_the_broker_is_given_the_hash_of_the_password_that_the_service_is_given(
    clone: BakedProject,
) -> None:
    provision(clone)
    user = load(clone, CONFIG)["users"]["neon_echo"]
    assert password_fits(clone, user["username"], user["password"])
    assert len(user["password"]) >= 43  # 32 random bytes
    assert user["password"] not in clone.read(DEFINITIONS)


def test_a_second_run_touches_nothing(clone: BakedProject) -> None:
    provision(clone, "--client-user")
    for name in (CONFIG, DEFINITIONS):
        change(clone, name, lambda data: None)  # the same in another layout
    before = {name: ((clone / name).read_bytes(), (clone / name).stat()) for name in SECRETS}
    again = provision(clone, "--client-user")
    assert again.stdout.split() == [word for name in sorted_as_made() for word in (name, "kept")]
    for name, (text, status) in before.items():
        assert (clone / name).read_bytes() == text
        assert (clone / name).stat().st_mtime_ns == status.st_mtime_ns


def sorted_as_made() -> list[str]:
    return [f"{name}:" for name in (CONFIG, DEFINITIONS, ".env", COOKIE)]


def test_definitions_that_are_made_anew_have_the_password_that_is_known(
    clone: BakedProject,
) -> None:
    provision(clone)
    before = load(clone, CONFIG)
    (clone / DEFINITIONS).unlink()
    assert provision(clone).returncode == 0
    assert load(clone, CONFIG) == before
    assert password_fits(clone, "neon_echo", before["users"]["neon_echo"]["password"])


def test_after_a_loss_of_the_password_the_definitions_get_the_new_one_and_keep_the_rest(
    clone: BakedProject,
) -> None:
    provision(clone)
    foreign = {"name": "mine", "vhost": "/neon_echo", "pattern": "^x$", "definition": {}}
    change(clone, DEFINITIONS, lambda data: data["policies"].append(foreign))
    mine = load(clone, DEFINITIONS)
    (clone / CONFIG).unlink()
    done = provision(clone)
    assert "next start" in done.stdout
    assert password_fits(clone, "neon_echo", load(clone, CONFIG)["users"]["neon_echo"]["password"])
    assert {**load(clone, DEFINITIONS), "users": None} == {**mine, "users": None}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_configuration_that_is_there_is_completed_however_it_is_spelled(
    clone: BakedProject, wrapped: bool
) -> None:
    inner = {"server": "mq.example.org", "users": {"neon_echo": {"user": "me"}, "other": {"a": 1}}}
    given = {"MQ": inner, "lang": "uk"} if wrapped else inner
    (clone / CONFIG).write_text(json.dumps(given), encoding="utf-8")
    provision(clone)
    found = load(clone, CONFIG)
    users = (found["MQ"] if wrapped else found)["users"]
    password = users["neon_echo"].pop("password")
    assert found == given
    assert password_fits(clone, "me", password)


def test_a_byte_order_mark_is_no_part_of_a_configuration(clone: BakedProject) -> None:
    given = {"users": {"neon_echo": {"user": "me", "password": "of-before"}}}
    text = b"\xef\xbb\xbf" + json.dumps(given).encode()
    (clone / CONFIG).write_bytes(text)
    assert provision(clone).returncode == 0
    assert password_fits(clone, "me", "of-before")
    assert (clone / CONFIG).read_bytes() == text, "nothing was missing in it"
    provision(clone, "--client-user")
    assert load(clone, CONFIG)["users"]["neon_echo"] == given["users"]["neon_echo"]


def test_an_entry_of_neons_clients_that_lacks_something_is_completed(clone: BakedProject) -> None:
    (clone / CONFIG).write_text('{"users": {"mq_handler": {}}}')
    assert provision(clone).returncode == 0
    clients = load(clone, CONFIG)["users"]["mq_handler"]
    assert clients["username"] == clients["user"] == "neon_api_utils"
    assert password_fits(clone, "neon_api_utils", clients["password"])


def test_neons_clients_are_let_in_when_asked_for(clone: BakedProject) -> None:
    provision(clone)
    assert [each["name"] for each in load(clone, DEFINITIONS)["users"]] == ["neon_echo"]
    before = load(clone, CONFIG)["users"]["neon_echo"]
    assert provision(clone, "--client-user").returncode == 0
    users = load(clone, CONFIG)["users"]
    assert users["neon_echo"] == before
    # Their connector reads `user`; everybody else `username`.
    assert users["mq_handler"]["user"] == users["mq_handler"]["username"] == "neon_api_utils"
    assert users["mq_handler"]["password"] != before["password"]
    assert password_fits(clone, "neon_api_utils", users["mq_handler"]["password"])
    # They stay in when the definitions are made anew without being asked for again.
    (clone / DEFINITIONS).unlink()
    provision(clone)
    assert password_fits(clone, "neon_api_utils", users["mq_handler"]["password"])


def test_the_clients_user_has_one_name_and_it_isnt_the_services(clone: BakedProject) -> None:
    assert provision(clone, "--client-user", "neon_echo").returncode == 2
    assert provision(clone, "--client-user", "a b").returncode == 2
    assert provision(clone, "--client-user", "chat").returncode == 0
    assert load(clone, CONFIG)["users"]["mq_handler"]["username"] == "chat"
    before = everything(clone)
    done = provision(clone, "--client-user", "other")
    assert (done.returncode, everything(clone)) == (1, before)
    assert "users.mq_handler" in done.stderr and "'chat'" in done.stderr


@pytest.mark.parametrize("other", [["--check"], ["--broker", "true"], ["--rotate"]])
def test_print_goes_alone(clone: BakedProject, other: list[str]) -> None:
    """What else is asked for beside it would not be done."""
    done = provision(clone, "--print", "neon", *other)
    assert done.returncode == 2
    assert "goes alone" in done.stderr and not done.stdout


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        (CONFIG, "{", "valid JSON"),
        (CONFIG, "[" * 100_000, "valid JSON"),
        (CONFIG, "[]", "the whole of it"),
        (CONFIG, '{"MQ": 1}', "MQ"),
        (CONFIG, '{"users": []}', "users"),
        (CONFIG, '{"users": {"neon_echo": "x"}}', "users.neon_echo"),
        (CONFIG, '{"users": {"neon_echo": {"password": 5}}}', "users.neon_echo.password"),
        (CONFIG, '{"users": {"neon_echo": {"username": 5}}}', "users.neon_echo.username"),
        (CONFIG, '{"users": {"neon_echo": {"password": 0}}}', "users.neon_echo.password"),
        (CONFIG, '{"users": {"neon_echo": {"password": false}}}', "users.neon_echo.password"),
        (CONFIG, '{"users": {"neon_echo": {"username": []}}}', "users.neon_echo.username"),
        (CONFIG, r'{"users": {"neon_echo": {"password": "x\ud800"}}}', "users.neon_echo.password"),
        (CONFIG, r'{"users": {"neon_echo": {"password": "x\u0000"}}}', "users.neon_echo.password"),
        (CONFIG, r'{"users": {"neon_echo": {"user": "\udfff"}}}', "users.neon_echo.username"),
        (CONFIG, '{"users": {"mq_handler": 1}}', "users.mq_handler"),
        (CONFIG, '{"users": {"mq_handler": {"password": 5}}}', "users.mq_handler.password"),
        (CONFIG, '{"port": ' + "9" * 5000 + "}", "valid JSON"),
        (CONFIG, b"\xff", "UTF-8"),
        (CONFIG, None, "Is a directory"),
        (DEFINITIONS, "nonsense", "valid JSON"),
        (DEFINITIONS, '{"users": {}}', "users"),
        (DEFINITIONS, '{"users": [1]}', "an entry of users"),
        (DEFINITIONS, None, "Is a directory"),  # as Docker makes it when it mounts what isn't there
        (".env", "SERVICE_UID=me\n", "SERVICE_UID"),
        (".env", b"\xff", "UTF-8"),
    ],
)
def test_a_broken_file_gets_one_line_and_nothing_is_changed(
    clone: BakedProject, name: str, content: str | bytes | None, key: str
) -> None:
    if content is None:
        (clone / name).mkdir()
    else:
        raw = content if isinstance(content, bytes) else content.encode()
        (clone / name).write_bytes(raw)
    before = clone.files()
    done = provision(clone)
    assert done.returncode == 1
    assert done.stderr.startswith(f"provision.py: {name}")
    assert key in done.stderr and len(done.stderr.splitlines()) == 1
    assert clone.files() == before
    if content is not None:
        assert (clone / name).read_bytes() == raw


def test_a_conflict_in_its_own_modules_is_one_line(clone: BakedProject) -> None:
    topology = clone / "rabbitmq/topology.py"
    lines = topology.read_text(encoding="utf-8").splitlines()
    topology.write_text("\n".join([*lines, "<<<<<<< before", "A = 1", "=======", "A = 2"]))
    before = everything(clone)
    done = clone.run("python", "rabbitmq/provision.py", check=False)
    [line] = done.stderr.splitlines()
    assert re.fullmatch(
        rf".*topology\.py:{len(lines) + 1}: isn't valid Python \(.+\): repair it first", line
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert everything(clone) == before


def test_who_waits_at_a_terminal_for_a_busy_broker_is_told_for_what(
    project: BakedProject, tmp_path: Path
) -> None:
    busy = tmp_path / "busy"
    busy.write_text("#!/bin/sh\nsleep 2.5\necho 'too much to do' >&2\nexit 1\n")
    busy.chmod(0o755)
    command = [sys.executable, "-B", "rabbitmq/provision.py", "--broker", str(busy)]
    ours, theirs = os.openpty()
    with subprocess.Popen(command, cwd=project.path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # which is how a terminal ends
            while more := os.read(ours, 4096):
                said += more
        assert process.wait(60) == 1
    os.close(ours)
    lines = said.decode().splitlines()
    assert "waiting for the broker (rabbitmqctl eval) ..." in lines
    assert lines[-1] == "provision.py: the broker: too much to do"
    # What a program reads stays as it was.
    done = provision(project, "--broker", str(busy))
    assert done.stderr.splitlines() == lines[-1:] and "waiting" not in done.stdout


def test_runs_at_the_same_time_make_what_fits_together(clone: BakedProject) -> None:
    """Each would draw a password, and the hash of one come beside the password of another."""
    command = [sys.executable, "-B", "rabbitmq/provision.py"]
    handle = os.open(clone / "rabbitmq", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # another one is at it
        runs = [
            subprocess.Popen(command, cwd=clone.path, stdout=subprocess.DEVNULL) for _ in range(3)
        ]
        time.sleep(0.7)  # several times what one takes
        assert not (clone / CONFIG).exists()
        assert provision(clone, "--check").returncode == 1, (
            "which changes nothing, and waits for nobody"
        )
    finally:
        os.close(handle)
    assert [each.wait(60) for each in runs] == [0] * 3
    assert provision(clone, "--check").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["made", "checked"])
def test_a_reader_that_has_gone_stops_nothing_and_is_no_fault(
    clone: BakedProject, arguments: list[str]
) -> None:
    """As `provision.py | head -1`: what is half-made would need another run."""
    if arguments:
        provision(clone)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-B", "rabbitmq/provision.py", *arguments]
    done = subprocess.run(
        command, cwd=clone.path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert provision(clone, "--check").returncode == 0


@pytest.mark.parametrize("script", ["provision.py", "local.py"])
def test_a_python_that_leaves_out_the_script_s_own_folder_runs_it(
    clone: BakedProject, script: str
) -> None:
    """`python -P`, PYTHONSAFEPATH: from Python 3.11 on."""
    clone.run("python", f"rabbitmq/{script}", "--help", env={"PYTHONSAFEPATH": "1"})


def test_check_says_what_is_missing_and_changes_nothing(clone: BakedProject) -> None:
    (clone / "rabbitmq/enabled_plugins").chmod(0o600)
    before = clone.files()
    done = provision(clone, "--check")
    assert (done.returncode, clone.files()) == (1, before)
    for name in SECRETS:
        assert f"{name}: missing" in done.stdout
    assert "enabled_plugins: not readable" in done.stdout
    provision(clone)
    assert provision(clone, "--check").returncode == 0
    lacking = provision(clone, "--check", "--client-user")
    assert lacking.returncode == 1 and f"{CONFIG}: incomplete" in lacking.stdout
    assert "mq_handler" not in clone.read(CONFIG)


def test_the_cookie_is_as_private_as_the_definitions_and_is_never_drawn_again(
    clone: BakedProject,
) -> None:
    provision(clone)
    cookie, definitions = (clone / COOKIE), (clone / DEFINITIONS)
    drawn = cookie.read_text()
    assert re.fullmatch("[0-9a-f]{64}", drawn)
    for attribute in ("st_mode", "st_uid", "st_gid"):
        assert getattr(cookie.stat(), attribute) == getattr(definitions.stat(), attribute)
    cookie.write_text("TYPED_BY_HAND\n")
    assert f"{COOKIE}: kept" in provision(clone).stdout
    cookie.write_text("")
    done = provision(clone)
    assert done.returncode == 1
    assert done.stderr == (
        f"provision.py: {COOKIE} isn't one line of 1 to 255 printable characters: "
        "repair it, or remove it and run this again, while no broker runs\n"
    )


def test_who_has_deleted_the_cluster_gets_no_cookie(clone: BakedProject) -> None:
    for name in ("compose.cluster.yaml", "rabbitmq/cluster.conf"):
        (clone / name).unlink()
    assert COOKIE not in provision(clone).stdout
    assert not (clone / COOKIE).exists()
    assert provision(clone, "--check").returncode == 0


def test_settings_of_ones_own_are_kept(clone: BakedProject) -> None:
    (clone / ".env").write_text("# mine\nMQ_PORT=5999\nexport SERVICE_UID='4711'", encoding="utf-8")
    provision(clone)
    lines = clone.read(".env").splitlines()
    assert lines[:3] == ["# mine", "MQ_PORT=5999", "export SERVICE_UID='4711'"]
    assert re.fullmatch(r"SERVICE_GID=\d+", lines[3]) and len(lines) == 4


@pytest.mark.parametrize(
    "name", ["neon_chat_output", "neon_chat_api_error", "0123456789abcdef" * 2]
)
def test_no_pattern_for_replies_gives_clients_what_is_the_services(bake: Bake, name: str) -> None:
    """Neither a queue that is called as replies are, nor a pattern for all names that is added."""
    project = bake(input_queue=name)
    script = project / "rabbitmq" / "topology.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace("REPLY_QUEUES = (", 'REPLY_QUEUES = (\n    ".*",'))
    (project / DEFINITIONS).unlink()
    provision(project, "--client-user")
    [rights] = [
        each
        for each in load(project, DEFINITIONS)["permissions"]
        if each["user"] == "neon_api_utils"
    ]
    own = [name, f"{name}.dead", f"{name}.probe.0123456789abcdef"]
    may = {right: [each for each in own if re.search(rights[right], each)] for right in rights}
    # To declare the queue that it publishes to is what a client does.
    assert (may["configure"], may["write"], may["read"]) == ([name], [], [])
    for right in ("configure", "read"):
        assert re.search(rights[right], "any other")


def test_names_with_a_meaning_in_regular_expressions_are_only_names(bake: Bake) -> None:
    project = bake(input_queue="a.b+(c)|d")
    patterns = [
        *(
            pattern
            for each in load(project, DEFINITIONS)["permissions"]
            for pattern in values(each)
        ),
        *(each["pattern"] for each in load(project, DEFINITIONS)["policies"]),
    ]
    assert any(re.search(pattern, "a.b+(c)|d") for pattern in patterns)
    for other in ("a.bb(c)", "d", "axb+(c)|d", "xa.b+(c)|d", "a.b+(c)|dx", "a.b+c"):
        assert not any(re.search(pattern, other) for pattern in patterns), other


def values(permission: dict[str, str]) -> list[str]:
    return [permission[right] for right in ("configure", "write", "read")]


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        pytest.param(
            ">/dev/full",
            1,
            "provision.py: can't write to the standard output: No space left on device\n",
            id="full",
        ),
        pytest.param(">&-", 0, "", id="closed"),
    ],
)
def test_it_finishes_whatever_becomes_of_what_it_prints(
    clone: BakedProject, where: str, code: int, said: str
) -> None:
    script = f'"$0" -B rabbitmq/provision.py {where}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], cwd=clone.path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, said)
    assert all((clone / name).exists() for name in SECRETS)


def test_nothing_is_said_to_be_printed_that_is_not(project: BakedProject) -> None:
    script = '"$0" -B rabbitmq/provision.py --print neon'
    for where, code in ((">/dev/full", 1), (">&-", 0)):
        done = subprocess.run(
            ["sh", "-c", f"{script} {where}", sys.executable],
            cwd=project.path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr and "ignored" not in done.stderr, done.stderr
