"""One set of rules for .env: the service, the scripts and Docker Compose read the same, or it is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import env_file
import pytest
from baked import BakedProject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mq_connector.config import environment
from mq_connector.errors import ConfigurationError
from provisioning import CONFIG, clone, provision

#: What the process has; everything else is the file's.
PROCESS = {"INENV": "env"}
#: What each file says for A and for B.
READ = [
    pytest.param(b"A=1", "1", None, id="one line without an end"),
    pytest.param(b"A=1\nB=2\n", "1", "2", id="two lines"),
    pytest.param(b"A=1\r\nB='2'\r\n", "1", "2", id="line ends of Windows"),
    pytest.param(b"\xef\xbb\xbfA=1\nB=2\n", "1", "2", id="byte order mark"),
    pytest.param(b"\xef\xbb\xbf# c\r\nA=1\r\n", "1", None, id="byte order mark, comment"),
    pytest.param(b"export A=1\nexport\t B=2\n", "1", "2", id="export"),
    pytest.param(b"  A=1\n\tB=2\n", "1", "2", id="indented"),
    pytest.param(b"A = 1\nB\t=\t2\t \n", "1", "2", id="white space around"),
    pytest.param(b"A=\nB=''\n", "", "", id="empty"),
    pytest.param(b'A= \nB=""\n', "", "", id="empty behind a space"),
    pytest.param(b"A=1\nA=2\n", "2", None, id="twice"),
    pytest.param(b"# A=1\n\n \t\n  # B=1\nB=2", None, "2", id="comments"),
    pytest.param(b"A=1 # c\nB=1  #c\n", "1", "1", id="comment behind a value"),
    pytest.param(b"A=1#2\nB=1=2\n", "1#2", "1=2", id="signs inside"),
    pytest.param(b"A='1' # c\nB=\"2\"\t#c\n", "1", "2", id="comment behind quotes"),
    pytest.param(b"A='a # b'\nB=\"a # b\"\n", "a # b", "a # b", id="number sign in quotes"),
    pytest.param(b"A=a  b\tc\nB=' a b '\n", "a  b\tc", " a b ", id="spaces"),
    pytest.param(b"A=a\"b\nB=a'b\n", 'a"b', "a'b", id="quote inside"),
    pytest.param(b"A='a\"b'\nB=\"a'b\"\n", 'a"b', "a'b", id="quote in the other"),
    pytest.param(b'A="a\\"b\\\\"\nB="a\\nb\\tc\\rd"\n', 'a"b\\', "a\nb\tc\rd", id="escapes"),
    pytest.param(b"A=a\\nb\\\nB='a\\nb\\z'\n", "a\\nb\\", "a\\nb\\z", id="backslashes as they are"),
    pytest.param(b"A='$x $$ $1 $(x)'\nB='a$'\n", "$x $$ $1 $(x)", "a$", id="dollars in quotes"),
    pytest.param(b"B=7\nA=${B}\n", "7", "7", id="reference"),
    pytest.param(b'B=7\nA="<${B} ${B}>"\n', "<7 7>", "7", id="references in quotes"),
    pytest.param(b"A=${B}\nB=7\n", "", "7", id="reference to what comes later"),
    pytest.param(b"A=<${NOWHERE}>\n", "<>", None, id="reference to nothing"),
    pytest.param(b"A=1\nA=${A}2\n", "12", None, id="reference to itself"),
    pytest.param(b"A=${INENV}\n", "env", None, id="reference to the process's"),
    pytest.param(b"INENV=file\nA=${INENV}\n", "env", None, id="the process's first"),
    pytest.param(b'A="\\\\${INENV}"\n', "\\env", None, id="backslash and reference"),
    pytest.param(b"A=`x`;~*!&|<>(){}%s\n", "`x`;~*!&|<>(){}%s", None, id="signs of a shell"),
    pytest.param("A=é\nB='\u2028\xa0'\n".encode(), "é", "\u2028\xa0", id="UTF-8"),
    pytest.param(b"A.b-c=5\nexport_A=6\nA=1\n", "1", None, id="other names"),
    pytest.param(b"", None, None, id="nothing"),
]
#: What one of the readers takes for something else than another, in which line it stands.
REFUSED = [
    pytest.param(b"A=1\nB\n", 2, id="no sign"),
    pytest.param(b"A: 5\n", 1, id="colon"),
    pytest.param(b"A B=1\n", 1, id="name of two words"),
    pytest.param(b"'A'=1\n", 1, id="name in quotes"),
    pytest.param(b"=1\n", 1, id="no name"),
    pytest.param(b"export =1\n", 1, id="export of nothing"),
    pytest.param(b";A=1\n", 1, id="another comment"),
    pytest.param(b"A=1\t# c\n", 1, id="tab before a comment"),
    pytest.param(b"A= # c\n", 1, id="comment in place of a value"),
    pytest.param(b"A=#b\n", 1, id="value that begins with a number sign"),
    pytest.param(b"A='a' b\n", 1, id="text behind quotes"),
    pytest.param(b'A="a"b\n', 1, id="text at quotes"),
    pytest.param(b"A='a\nB=1\n", 1, id="quote without an end"),
    pytest.param(b'A="a\nb"\n', 1, id="two lines in quotes"),
    pytest.param(b"A='a\\\\b'\n", 1, id="two backslashes in single quotes"),
    pytest.param(b"A='a\\'\n", 1, id="backslash before a single quote"),
    pytest.param(b'A="a\\qb"\n', 1, id="unknown escape"),
    pytest.param(b"A=$B\n", 1, id="reference without braces"),
    pytest.param(b"A=a$$b\n", 1, id="two dollars"),
    pytest.param(b'A="$"\n', 1, id="dollar in double quotes"),
    pytest.param(b"A=${B:-5}\n", 1, id="reference with a default"),
    pytest.param(b"A='${B}'\n", 1, id="reference in single quotes"),
    pytest.param(b"A=${B\n", 1, id="reference without an end"),
    pytest.param(b"A=\\${B}\n", 1, id="backslash before a reference"),
    pytest.param(b'A="\\${B}"\n', 1, id="backslash before a reference in quotes"),
    pytest.param("A=x\xa0# c\n".encode(), 1, id="another kind of space"),
    pytest.param(b"A=1\rB=2\r", 1, id="line ends of old Macs"),
    pytest.param(b"A=1\nB=a\0b\n", 2, id="NUL"),
    pytest.param(b"A=\x1b[31m\n", 1, id="escape"),
    pytest.param(b"A=1\n#\xe9\n", 2, id="Latin-1"),
    pytest.param("A=1\n".encode("utf-16"), 1, id="UTF-16"),
]

Reader = Callable[[bytes], "dict[str, str]"]


def by_the_scripts(raw: bytes) -> dict[str, str]:
    return env_file.read(env_file.decode(raw), PROCESS)


@pytest.fixture
def by_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in PROCESS.items():
        monkeypatch.setenv(name, value)

    def read(raw: bytes) -> dict[str, str]:
        Path(".env").write_bytes(raw)
        return {name: value for name, value in environment().items() if "PYTEST" not in name}

    return read


def pair(values: dict[str, str]) -> tuple[str | None, str | None]:
    return values.get("A"), values.get("B")


@pytest.mark.parametrize(("raw", "a", "b"), READ)
def test_the_service_and_the_scripts_read_the_same(
    by_the_service: Reader, raw: bytes, a: str | None, b: str | None
) -> None:
    assert pair(by_the_scripts(raw)) == (a, b)
    assert pair(by_the_service(raw)) == (a, b)


@pytest.mark.parametrize(("raw", "line"), REFUSED)
def test_what_readers_disagree_about_is_refused_with_its_line_and_without_its_value(
    by_the_service: Reader, raw: bytes, line: int
) -> None:
    with pytest.raises(env_file.EnvFileError) as scripts:
        by_the_scripts(raw)
    with pytest.raises(ConfigurationError) as service:
        by_the_service(raw)
    for message in (str(scripts.value), str(service.value).removeprefix(".env: ")):
        assert message.startswith(f"line {line} ") and message.isprintable()
    said = str(scripts.value).replace(":", ";")
    assert said == str(service.value).removeprefix(".env: ").replace(":", ";")


#: What lines are made of, so that many of them are near the border of what is allowed.
PIECES = st.sampled_from(
    [
        *"ABABx1",
        *"==''\"\"",
        *" \t\n#${}\\:-é\r\x1b\xa0\u2028\ufeff",
        "\\n",
        "\r\n",
        "INENV",
        "${B}",
        "${INENV}",
        "export ",
    ]
)
FILES = st.lists(PIECES, max_size=14).map(lambda pieces: "".join(pieces).encode())


@pytest.mark.slow
@settings(
    max_examples=600,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=FILES)
def test_whatever_is_made_of_such_pieces_is_read_alike_or_refused_by_both(
    by_the_service: Reader, raw: bytes
) -> None:
    try:
        expected = by_the_scripts(raw)
    except env_file.EnvFileError:
        with pytest.raises(ConfigurationError):
            by_the_service(raw)
    else:
        assert by_the_service(raw) == {**expected, **PROCESS}


# ---- Docker Compose


class Compose:
    """A folder in which Compose is asked what it makes of .env."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        asked = {name: f"${{{name}-unset}}" for name in ("A", "B")}
        service = {"image": "none", "environment": asked}
        compose = json.dumps({"name": "asked", "services": {"one": service}})
        (folder / "compose.yaml").write_text(compose)

    def read(self, raw: bytes) -> dict[str, str]:
        (self.folder / ".env").write_bytes(raw)
        done = subprocess.run(
            ["docker", "compose", "config", "--format", "json"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **PROCESS},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["services"]["one"]["environment"]
        # What it prints could be read in again, for which a dollar stands twice.
        plain = {name: value.replace("$$", "$") for name, value in found.items()}
        return {name: value for name, value in plain.items() if value != "unset"}


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    version = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(version, capture_output=True).returncode:
        pytest.skip("`docker compose version` fails on this machine")
    return Compose(tmp_path)


@pytest.mark.containers
@pytest.mark.parametrize(("raw", "a", "b"), READ)
def test_compose_reads_the_same(compose: Compose, raw: bytes, a: str | None, b: str | None) -> None:
    assert pair(compose.read(raw)) == (a, b)


@pytest.mark.containers
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
)
@given(value=st.lists(PIECES, max_size=8).map("".join))
def test_compose_reads_the_same_of_whatever_isnt_refused(compose: Compose, value: str) -> None:
    raw = f"B=7\nA={value}".encode()
    try:
        expected = by_the_scripts(raw)
    except env_file.EnvFileError:
        return
    assert pair(compose.read(raw)) == pair(expected)


# ---- the scripts

#: Ways to set a variable that the scripts were once blind to.
WAYS = [
    pytest.param("\ufeff{}={}\n", id="byte order mark"),
    pytest.param("export {}={}\n", id="export"),
    pytest.param("  {}={}\n", id="indent"),
    pytest.param("\t{}={}\n", id="tab"),
    pytest.param('{} = "{}" # as I like it\n', id="quotes and comment"),
    pytest.param("{}='{}'\r\n", id="line ends of Windows"),
    pytest.param("BASE={1}\n{0}=${{BASE}}\n", id="reference"),
    pytest.param("{0}=1\n{0}={1}", id="twice"),
]


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize("way", WAYS)
def test_provision_knows_a_user_that_is_set_in_any_way(project: BakedProject, way: str) -> None:
    fresh = clone(project)
    mine = "4711" if os.geteuid() == 0 else str(os.getuid())
    text = way.format("SERVICE_UID", mine)
    (fresh / ".env").write_bytes(text.encode())
    done = provision(fresh)
    assert done.returncode == 0, done.stderr
    made = (fresh / ".env").read_bytes().decode()
    end = "\r\n" if "\r\n" in text else "\n"
    group = env_file.read(made, {})["SERVICE_GID"]
    assert made == text.rstrip("\r\n") + end + f"SERVICE_GID={group}{end}"
    assert (fresh / CONFIG).stat().st_uid == int(mine)
    assert provision(fresh, "--check").returncode == 0


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize(
    "line",
    [
        "SERVICE_UID=",
        "SERVICE_UID=me",
        "SERVICE_UID=-1",
        "SERVICE_UID=4294967295",
        "SERVICE_UID=٣",
        "SERVICE_GID=" + "9" * 5000,
        "SERVICE_UID=$UID",
        "SERVICE_UID: 5",
        "MQ_PORT='5\nSERVICE_UID=5'",
    ],
    ids=lambda line: line[:20],
)
def test_provision_refuses_what_is_no_user_and_changes_nothing(
    project: BakedProject, line: str
) -> None:
    fresh = clone(project)
    (fresh / ".env").write_text(f"{line}\n")
    before = fresh.files()
    done = provision(fresh)
    assert done.returncode == 1
    assert done.stderr.startswith("provision.py: .env: ") and len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 400
    assert (fresh.files(), fresh.read(".env")) == (before, f"{line}\n")


def say(project: BakedProject, *words: str, **env: str) -> str:
    """The one line by which local.py says why it doesn't start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQ_")}
    done = subprocess.run(
        [sys.executable, "-B", "rabbitmq/local.py", *words],
        cwd=project.path,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize("way", WAYS)
def test_local_takes_the_port_that_is_set_in_any_way(project: BakedProject, way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (project / ".env").write_bytes(way.format("MQ_PORT", port).encode())
        assert f"port {port} is taken" in say(project)
        (project / ".env").write_bytes(b"MQ_PORT=1\n")
        assert f"port {port} is taken" in say(project, MQ_PORT=str(port))


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize("port", ["0", "65536", "me", "-5", "9" * 5000, "٥", "5e3"])
def test_local_refuses_what_is_no_port(project: BakedProject, port: str) -> None:
    (project / ".env").write_text(f"MQ_PORT={port}\n")
    refusal = "must be a port number, from 1 to 65535"
    assert say(project) == f"local.py: MQ_PORT {refusal}"
    assert say(project, "--port", port).endswith(refusal)
    (project / ".env").write_text("")
    assert say(project, MQ_PORT=port) == f"local.py: MQ_PORT {refusal}"


@pytest.mark.parametrize("raw", [b"MQ_PORT=$PORT\n", b"#\xe9\n", b"MQ_PORT=5672\0\n"])
def test_local_refuses_what_others_would_read_differently(
    project: BakedProject, raw: bytes
) -> None:
    (project / ".env").write_bytes(raw)
    assert say(project).startswith("local.py: .env: line 1 ")


def test_the_files_that_are_made_and_shown_obey_the_rules(default_project: BakedProject) -> None:
    made = env_file.read(default_project.read(".env"), {})
    assert set(made) == {"COMPOSE_PROJECT_NAME", "SERVICE_UID", "SERVICE_GID"}
    shown = default_project.read(".env.example")
    assert set(env_file.read(shown, {})) == set(made) - {"COMPOSE_PROJECT_NAME"}
    # Also when a default is taken over by removing the sign before it.
    used = re.sub(r"^#(?=[A-Z_]+=)", "", shown, flags=re.MULTILINE)
    assert len(env_file.read(used, {})) > 10
