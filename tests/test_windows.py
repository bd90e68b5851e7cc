"""What Windows has not, or has otherwise, as far as another system can show it.

Users without numbers and files without permissions, an 8-bit encoding of files and consoles, and line
ends of two characters. tests/test_twin.py has the names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from baked import CONNECTOR, TEMPLATE, TREE, BakedProject, bake_into, command_line, copy_template

#: What Python's `os` doesn't have there (its documentation: "Availability: Unix").
OF_UNIX = [
    "chown",
    "chroot",
    "fchdir",
    "fchmod",
    "fchown",
    "fork",
    "forkpty",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgid",
    "getsid",
    "getuid",
    "initgroups",
    "killpg",
    "lchown",
    "mkfifo",
    "nice",
    "register_at_fork",
    "seteuid",
    "setgid",
    "setgroups",
    "setsid",
    "setuid",
    "sysconf",
    "uname",
    "wait",
    "wait3",
    "wait4",
]
#: What takes it away from a Python, and other things of the kind.
WITHOUT = f"""
import os, signal, socket, sys
for name in {OF_UNIX}:
    delattr(os, name)
for name in "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGQUIT SIGPIPE".split():
    delattr(signal, name)
for name in "fcntl grp pwd resource termios".split():
    sys.modules[name] = None
del socket.AF_UNIX
"""
#: An 8-bit locale, as far as every system has one: ASCII for files, cp1252 for the console, nothing of UTF-8.
EIGHT_BIT = {
    "LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "cp1252",
}  # fmt: skip
#: Each of its letters is missing in cp1252.
CYRILLIC = "\u041f\u0440\u0438\u0432\u0435\u0442 \u6c14 \U0001f680"


@pytest.fixture
def without_unix(tmp_path: Path) -> dict[str, str]:
    """An environment whose Pythons find nothing that only Unix has."""
    folder = tmp_path / "without-unix"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT, "utf-8")
    env = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    asked = "import os, signal; print(hasattr(os, 'geteuid'), hasattr(signal, 'SIGHUP'))"
    done = subprocess.run(
        [sys.executable, "-c", asked], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.stdout == "False False\n", done.stderr
    return env


def provision(project: BakedProject, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return project.run("python", "rabbitmq/provision.py", *words, env=env, check=False)


def test_hooks_and_credentials_need_nothing_that_only_unix_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_unix: dict[str, str]
) -> None:
    for name, value in without_unix.items():
        monkeypatch.setenv(name, value)
    project = bake_into(tmp_path / "out")
    assert "SERVICE_UID=10001\nSERVICE_GID=10001\n" in project.read(".env")
    done = provision(project, "--check", **without_unix)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count(": kept") == 4
    (project / "mq_config.json").chmod(0o666)  # as Windows says of every file
    done = provision(project, "--client-user", **without_unix)
    assert (done.returncode, done.stderr) == (0, "") and "chmod" not in done.stdout
    assert "mq_handler" in json.loads(project.read("mq_config.json"))["users"]
    done = provision(project, "--print", "neon", **without_unix)
    assert done.returncode == 0 and "password" in done.stdout


def test_answers_are_refused_without_unix_and_nothing_is_left(
    tmp_path: Path, without_unix: dict[str, str]
) -> None:
    done = command_line(tmp_path / "out", "service_slug=a/b/c", environment=without_unix)
    assert done.returncode and "service_slug 'a/b/c' can't name a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_private_broker_says_that_it_needs_unix(
    default_project: BakedProject, without_unix: dict[str, str]
) -> None:
    command = [sys.executable, "-B", "rabbitmq/local.py"]
    env = {**os.environ, **without_unix}
    done = subprocess.run(
        command, cwd=default_project.path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "local.py: it doesn't run on Windows: docker compose up, or WSL\n"


@pytest.mark.parametrize("command", ["run", "health"])
def test_the_service_says_that_it_runs_in_its_container_there(
    default_project: BakedProject, without_unix: dict[str, str], command: str
) -> None:
    env = {**without_unix, "PYTHONPATH": f"{without_unix['PYTHONPATH']}{os.pathsep}src"}
    done = default_project.run("python", "-m", "neon_echo", command, env=env, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert "need Unix's local sockets: run them in the container (docker compose up)" in said


def test_the_handler_is_tested_without_unix_too(
    default_project: BakedProject, without_unix: dict[str, str]
) -> None:
    env = {**without_unix, "PYTHONPATH": f"{without_unix['PYTHONPATH']}{os.pathsep}src"}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_handler.py"]
    assert " passed" in default_project.run("python", *words, env=env).stdout


def test_only_one_module_knows_users_by_number() -> None:
    """Of what runs at rendering and after a clone; the connector runs in its container there."""
    sources = [*(TEMPLATE / "hooks").glob("*.py"), *(TREE / "rabbitmq").glob("*.py")]
    unix = re.compile(rf"\bos\.({'|'.join(OF_UNIX)})\b")
    users = {path.name: unix.findall(path.read_text("utf-8")) for path in sources}
    # Those of a private broker, which is for Unix.
    users = {name: found for name, found in users.items() if found and name[:5] != "local"}
    assert {*users} == {"owners.py"} and {"geteuid", "chown"} <= {*users["owners.py"]}


@pytest.mark.slow  # starts cookiecutter for each
@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "com1", "lpt9"])
def test_a_folder_is_not_called_like_a_device(tmp_path: Path, name: str) -> None:
    done = command_line(tmp_path / "out", f"service_name={name.title()}")
    assert done.returncode and f"service_slug '{name}' can't name a folder" in done.stderr
    assert done.stderr.count("can't name") == 1, "what follows from the slug is not blamed as well"


def test_texts_survive_a_console_and_files_of_eight_bits(tmp_path: Path) -> None:
    """Nothing that the hooks or the scripts read or write takes the locale's encoding."""
    answers = {"service_name": f"{CYRILLIC} Bot", "description": CYRILLIC, "vhost": "/\u041f"}
    # Python would give an EncodingWarning at each open() that leaves the encoding to the locale.
    strict = {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "error::EncodingWarning"}
    # Not by words: Windows hands them over as they are, but Python on Unix in such a locale doesn't.
    folder = tmp_path / "out"
    done = command_line(folder, defaults=answers, environment=EIGHT_BIT)
    assert done.returncode == 0, done.stderr
    [path] = folder.iterdir()
    project = BakedProject(path, {})
    note = json.loads(project.read(".template.json"))
    assert note["answers"]["description"] == CYRILLIC
    for arguments in ([], ["--check"], ["--client-user"], ["--print", "neon"]):
        seen = provision(project, *arguments, **EIGHT_BIT, **strict)
        assert (seen.returncode, "Traceback" in seen.stderr) == (0, False), seen.stderr


@pytest.mark.parametrize("hook", ["pre_gen_project", "post_gen_project"])
def test_no_hook_leaves_an_encoding_to_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    """As seen by Python itself, which warns at each open() without one; the warning is an error here."""
    template = copy_template(tmp_path / "template")
    script = template / "hooks" / f"{hook}.py"
    strict = "import warnings\nwarnings.simplefilter('error', EncodingWarning)\n"
    script.write_text(strict + script.read_text("utf-8"), "utf-8")
    monkeypatch.setenv("PYTHONWARNDEFAULTENCODING", "1")
    assert bake_into(tmp_path / "out", template=template).has_file(".template.json")
    script.write_text(strict + "open('x', 'w')\n" + script.read_text("utf-8"), "utf-8")
    with pytest.raises(Exception, match="Hook script failed"):
        bake_into(tmp_path / "again", template=template)


def test_a_refusal_is_said_on_a_console_of_eight_bits(tmp_path: Path) -> None:
    answers = {"description": CYRILLIC, "input_queue": "a b"}
    done = command_line(tmp_path / "out", defaults=answers, environment=EIGHT_BIT)
    assert "input_queue 'a b' holds a space" in done.stderr and "Traceback" not in done.stderr
    assert "Again, with all that was good" in done.stdout and "\\u041f" in done.stdout
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    "words",
    [["--help"], ["connector"], ["doctor"], ["health"], ["dead", "--help"], ["request", "{"]],
    ids=" ".join,
)
def test_commands_work_on_a_console_of_eight_bits(
    default_project: BakedProject, words: list[str]
) -> None:
    env = {**EIGHT_BIT, "MQ_PORT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = default_project.run("python", "-m", "neon_echo", *words, env=env, check=False)
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_checkout_with_the_line_ends_of_windows_makes_those_of_unix(tmp_path: Path) -> None:
    """But for the connector, which is copied as it is, and works: that is what Python doesn't mind."""
    template = copy_template(tmp_path / "template")
    for path in template.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    project = bake_into(tmp_path / "out", template=template)
    with_cr = {name for name in project.files() if b"\r" in (project / name).read_bytes()}
    vendored = f"src/neon_echo/{CONNECTOR.name}/"
    assert with_cr and all(name.startswith(vendored) for name in with_cr)
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    seen = project.run("python", "-m", "neon_echo", "connector", env=env)
    assert seen.stdout.endswith("as it came\n")
    seen = project.run(
        "python", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_handler.py"
    )
    assert " passed" in seen.stdout
    assert provision(project, "--check").returncode == 0
