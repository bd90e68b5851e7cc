"""Names: what is derived from the service's, and what is refused, in one line and without a trace."""

from __future__ import annotations

import json
import keyword
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from baked import CONNECTOR, TEMPLATE, TREE, bake_into, command_line, make_environment
from conftest import Bake
from cookiecutter.exceptions import FailedHookException
from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context
from waiting import eventually

#: What Python has had since 3.10 and hasn't in every version.
COME_AND_GONE = {"annotationlib", "asynchat", "compression", "distutils", "imp", "telnetlib"}


def derive(**given: str) -> dict[str, str]:
    """Answer all that is not given with its default, without rendering a file."""
    context = generate_context(str(TEMPLATE / "cookiecutter.json"), extra_context=given)
    answers: dict[str, str] = prompt_for_config(context, no_input=True)
    return answers


@pytest.mark.parametrize(
    ("name", "slug", "package", "class_name"),
    [
        ("Neon Echo", "neon-echo", "neon_echo", "NeonEcho"),
        ("weather", "weather", "weather", "Weather"),
        ("Echo Service", "echo-service", "echo_service", "Echo"),
        ("Service", "service", "service", ""),
        ("  Neon   TTS  ", "neon-tts", "neon_tts", "NeonTTS"),
        ("2nd \xdcn\xef-Service!", "2nd-uni-service", "neon_2nd_uni_service", "Neon2ndUni"),
        ("class", "class", "neon_class", "Class"),
        ("JSON", "json", "neon_json", "JSON"),
        ("pika", "pika", "neon_pika", "Pika"),
        ("tests", "tests", "neon_tests", "Tests"),
        ("a/b\\c", "a-b-c", "a_b_c", "ABC"),
        ("../../etc", "etc", "etc", "Etc"),
        ("My \"own\" 'echo' $(x)", "my-own-echo-x", "my_own_echo_x", "MyOwnEchoX"),
        ("\U0001f680 Rocket", "rocket", "rocket", "Rocket"),
        ("\u5929\u6c14", "tian-qi", "tian_qi", "TianQi"),
        ("x" * 300, "x" * 48, "x" * 48, "X" + "x" * 299),
    ],
)
def test_names_are_derived_from_the_service_s(
    name: str, slug: str, package: str, class_name: str
) -> None:
    answers = derive(service_name=name)
    assert answers["service_slug"] == slug
    assert answers["package_name"] == package
    assert answers["__class_name"] == class_name
    assert answers["vhost"] == f"/{package}"
    assert answers["input_queue"] == f"{package}_input"
    assert f"{class_name}Service".isidentifier()


def test_no_derived_package_takes_the_place_of_a_module() -> None:
    variables = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    environment = create_env_with_context({"cookiecutter": variables})
    package = environment.from_string(variables["package_name"])
    for name in {*sys.stdlib_module_names, *keyword.kwlist, *COME_AND_GONE}:
        if name.islower() and name[0] != "_":
            slug = name.replace("_", "-")
            given = {**variables, "service_slug": slug}
            assert package.render(cookiecutter=given) == f"neon_{name}"


def test_every_module_of_the_repository_itself_is_taken() -> None:
    """Its tests find the modules of both folders by their plain names."""
    own = {path.stem for folder in ("rabbitmq", "tests") for path in (TREE / folder).glob("*.py")}
    own |= {path.name for path in (TREE / "src" / CONNECTOR.parent.name).iterdir()}
    own = {name for name in own if name.isidentifier() and not name.startswith(("_", "test_"))}
    assert {"local", "neon", "topology", "mq_connector"} <= own
    for name in own:
        assert derive(service_name=name)["package_name"] == f"neon_{name}", name


def test_the_taken_names_are_in_order() -> None:
    """A reader finds one; and no line is longer than the other files' are."""
    variables = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    for group in variables["_taken"].values():
        names = " ".join(group).split()
        assert names == sorted({*names})
        assert max(map(len, group)) <= 100


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize(
    "name",
    ["2nd \xdcn\xef-Service!", "class", "a/b", "\U0001f680 Rocket", 'My "own" echo', "back\\slash"],
)
def test_an_odd_name_still_gives_a_repository(bake: Bake, name: str) -> None:
    project = bake(service_name=name)
    for module in project.package.glob("*.py"):
        compile(module.read_text(encoding="utf-8"), module.name, "exec")


@pytest.mark.parametrize("end", ["\ud83d\ude80", "\ud83d"], ids=["pair", "half"])
def test_an_emoji_in_two_halves_is_refused_before_a_file_is_written(
    tmp_path: Path, end: str
) -> None:
    """As YAML reads what JSON wrote of it. cookiecutter would stop at the first file that has it."""
    defaults = tmp_path / "mine.yaml"
    defaults.write_text(json.dumps({"default_context": {"description": f"a {end}"}}), "utf-8")
    done = command_line(tmp_path / "out", f"--config-file={defaults}", HOME=str(tmp_path))
    assert done.returncode and "Traceback" not in done.stderr
    said = (
        r"description .* (has a character in two halves: write it whole|.* U\+D83D: take it out)\."
    )
    assert re.fullmatch(said, done.stderr.strip())
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("end", ["\x00", "\ud83d", "\udcff"], ids=["nul", "half", "byte"])
def test_a_slug_that_no_folder_can_be_called_is_one_line(tmp_path: Path, end: str) -> None:
    """cookiecutter makes the folder before it asks the hook, and would end with a traceback."""
    defaults = tmp_path / "mine.yaml"
    defaults.write_text(json.dumps({"default_context": {"service_slug": f"a{end}"}}), "utf-8")
    done = command_line(tmp_path / "out", f"--config-file={defaults}", HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"service_slug 'a\\.*' can't name a folder: .*\.\n", done.stderr), (
        done.stderr
    )
    assert not [*(tmp_path / "out").iterdir()]


REFUSED = [
    pytest.param("service_name", "", "service_slug", id="empty"),
    pytest.param("service_name", "   ", "service_slug", id="blank"),
    pytest.param("service_name", "\U0001f680", "service_slug", id="only-emoji"),
    pytest.param("service_name", "\"'/\\", "service_slug", id="only-quotes-and-slashes"),
    pytest.param("service_slug", "Neon Echo", "service_slug", id="slug-with-space"),
    pytest.param("service_slug", "neon/echo", "service_slug", id="slug-with-slash"),
    pytest.param("service_slug", "a/b/c/d", "service_slug", id="slug-with-slashes"),
    pytest.param("service_slug", "../echo", "service_slug", id="slug-that-climbs"),
    pytest.param("service_slug", "../a/echo", "service_slug", id="slug-that-climbs-and-descends"),
    pytest.param("service_slug", "-echo", "service_slug", id="slug-like-an-option"),
    pytest.param("service_slug", "\xfcn\xef", "service_slug", id="slug-not-ascii"),
    pytest.param("service_slug", "e" * 64, "service_slug", id="slug-too-long"),
    pytest.param("service_slug", "echo\n", "service_slug", id="slug-with-line-end"),
    pytest.param("package_name", "2nd", "package_name", id="package-with-digit-first"),
    pytest.param("package_name", "class", "package_name", id="package-keyword"),
    pytest.param("package_name", "json", "package_name", id="package-of-python"),
    pytest.param("package_name", "pika", "package_name", id="package-of-pika"),
    pytest.param("package_name", "mq_connector", "package_name", id="package-of-connector"),
    pytest.param("package_name", "tests", "package_name", id="package-of-tests"),
    pytest.param("package_name", "Echo", "package_name", id="package-upper-case"),
    pytest.param("package_name", "neon.echo", "package_name", id="package-with-dot"),
    pytest.param("package_name", "a/b", "package_name", id="package-with-slash"),
    pytest.param("package_name", "", "package_name", id="package-empty"),
    pytest.param("vhost", "neon_echo", "vhost", id="vhost-without-slash"),
    pytest.param("vhost", "", "vhost", id="vhost-empty"),
    pytest.param("vhost", "/a b", "vhost", id="vhost-with-space"),
    pytest.param("vhost", '/a"b', "vhost", id="vhost-with-quote"),
    pytest.param("vhost", "/a\x07", "vhost", id="vhost-with-bell"),
    pytest.param("vhost", "/" + "v" * 255, "vhost", id="vhost-too-long"),
    pytest.param("input_queue", "", "input_queue", id="queue-empty"),
    pytest.param("input_queue", "amq.echo", "input_queue", id="queue-of-the-broker"),
    pytest.param("input_queue", "q" * 256, "input_queue", id="queue-over-255-bytes"),
    pytest.param("input_queue", "\xfc" * 109, "input_queue", id="queue-over-216-bytes"),
    pytest.param("input_queue", "a$b", "input_queue", id="queue-with-dollar"),
    pytest.param("package_name", "neon", "package_name", id="package-of-a-script"),
    pytest.param("package_name", "pytest_timeout", "package_name", id="package-of-a-plugin"),
    pytest.param("package_name", "typing_extensions", "package_name", id="package-of-a-linter"),
    pytest.param("description", "a\u202eb", "description", id="turned-around"),
    pytest.param("author_name", "a\u2066b", "author_name", id="isolated"),
    pytest.param("description", "a\x00b".replace("\x00", "\x1b"), "description", id="escape"),
    pytest.param("author_name", "a\x7f", "author_name", id="delete"),
    pytest.param("author_email", "\udcff", "author_email", id="not-utf-8"),
    pytest.param("__user_key", "", "__user_key", id="user-empty"),
    pytest.param("__user_key", "a b", "__user_key", id="user-with-space"),
    pytest.param("__user_key", "-a", "__user_key", id="user-like-an-option"),
    pytest.param("__user_key", 'a"b', "__user_key", id="user-with-quote"),
    pytest.param("__user_key", "u" * 64, "__user_key", id="user-too-long"),
    pytest.param("__user_key", "mq_handler", "__user_key", id="user-of-neons-clients"),
    pytest.param("package_name", "neon_api_utils", "__user_key", id="package-of-neons-clients"),
    pytest.param("package_name", "env_file", "package_name", id="package-of-the-scripts"),
]
#: Variables that are text; for the others cookiecutter keeps to the choices there are.
TEXTS = ["service_name", "service_slug", "package_name", "description", "author_name"]
TEXTS += ["author_email", "vhost", "input_queue", "__user_key"]


@pytest.mark.parametrize(("variable", "value", "blamed"), REFUSED)
def test_a_bad_answer_is_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], variable: str, value: str, blamed: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FailedHookException):
        bake_into(out, {variable: value}, settings_folder=tmp_path / "settings")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{blamed} "), lines
    # Folders above the refused one go just after it does.
    deadline = time.monotonic() + 5
    while leavings(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert leavings(tmp_path) == []


def leavings(folder: Path) -> list[Path]:
    expected = {folder / "out", folder / "settings"}
    return [
        path for path in [*folder.iterdir(), *(folder / "out").iterdir()] if path not in expected
    ]


def test_the_command_line_passes_the_refusal_on(tmp_path: Path) -> None:
    done = command_line(tmp_path / "out", "service_slug=a/b/c")
    assert done.returncode == 1
    assert done.stderr.startswith("service_slug 'a/b/c' ") and done.stderr.endswith(".\n")
    eventually(lambda: not [*(tmp_path / "out").iterdir()], what="folders above it go")


@pytest.mark.parametrize(
    ("variable", "value"), [("license", "GPL"), ("python_version", "2.7"), ("service_slug", "")]
)
def test_what_cookiecutter_itself_refuses_leaves_nothing_either(
    tmp_path: Path, variable: str, value: str
) -> None:
    done = command_line(tmp_path / "out", f"{variable}={value}")
    assert done.returncode == 1
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.slow  # starts cookiecutter for each
@pytest.mark.parametrize("variable", TEXTS)
@pytest.mark.parametrize("value", [None, True], ids=["null", "true"])
def test_a_default_of_ones_own_that_is_no_text_is_one_line(
    tmp_path: Path, variable: str, value: bool | None
) -> None:
    done = command_line(tmp_path / "out", defaults={variable: value})
    assert done.returncode == 1
    assert done.stderr.startswith(f"{variable} ") and "isn't text" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_number_among_ones_own_defaults_is_text(tmp_path: Path) -> None:
    assert command_line(tmp_path / "out", defaults={"service_name": 2026}).returncode == 0
    assert (tmp_path / "out" / "2026" / "src" / "neon_2026").is_dir()


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    mine = tmp_path / "neon-echo" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    done = command_line(tmp_path)
    assert done.returncode == 1 and "already exists" in done.stdout
    assert [*mine.parent.iterdir()] == [mine]


def test_the_class_has_the_service_s_name(tmp_path: Path) -> None:
    project = bake_into(tmp_path, {"service_name": "Weather Bot Service"})
    source = (project.package / "service.py").read_text(encoding="utf-8")
    assert "\nclass WeatherBotService(" in source


def test_a_cookiecutter_that_is_too_old_is_told_so() -> None:
    """Before 2.6, hooks are rendered with other delimiters: this text reaches Python as it is."""
    hook = TEMPLATE / "hooks" / "pre_gen_project.py"
    done = subprocess.run([sys.executable, "-B", hook], capture_output=True, text=True)
    assert done.returncode == 1
    assert "2.6" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.7.3", "2.5.0"])
def test_a_real_old_cookiecutter_is_told_so(tmp_path: Path, version: str) -> None:
    old = tmp_path / "old"
    make_environment(old, f"cookiecutter=={version}", "setuptools<81")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [old / "bin" / "cookiecutter", "--no-input", TEMPLATE],
        cwd=tmp_path / "out",
        env={"PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cookiecutter is too old, 2.6 is needed" in done.stderr
    assert [*(tmp_path / "out").iterdir()] == []


SEVERAL = {
    "service_name": "Neon <<Echo>>, <% if %> #% <<<",
    "vhost": "x",
    "input_queue": "amq.x",
    "author_name": "a\u202eb",
    "description": 'it\'s $(touch pwned) "so"',
    "license": "MIT",
}


def test_all_problems_are_told_at_once_with_the_command_that_asks_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was good is proposed, byte for byte; what was not is asked again."""
    with pytest.raises(FailedHookException):
        bake_into(tmp_path / "out", SEVERAL, typed=True)
    said = capfd.readouterr()
    blamed = [line.split()[0] for line in said.err.splitlines()]
    assert sorted(blamed) == ["author_name", "input_queue", "vhost"]
    [line] = [each for each in said.out.splitlines() if each.startswith("Again, ")]
    words = shlex.split(line.partition(": ")[2])
    assert words[:2] == ["cookiecutter", str(TEMPLATE)]
    assert not [word for word in words if word.split("=")[0] in blamed]
    done = command_line(tmp_path / "again", *words[2:])
    assert done.returncode == 0, done.stderr
    [project] = (tmp_path / "again").iterdir()
    stamp = json.loads((project / ".template.json").read_text("utf-8"))
    assert stamp["answers"] == {**SEVERAL, **DEFAULTS, "service_slug": project.name}
    assert project.name.startswith("neon-echo")


#: What is asked again.
DEFAULTS = {
    "author_name": "Your Name",
    "author_email": "you@example.com",
    "package_name": "neon_echo_if",
    "vhost": "/neon_echo_if",
    "input_queue": "neon_echo_if_input",
    "python_version": "3.13",
}


@pytest.mark.parametrize(
    ("answers", "blamed", "proposed"),
    [
        ({"package_name": "Neon.Echo"}, ["package_name"], "service_name"),
        ({"package_name": "a b", "vhost": "/x"}, ["package_name"], "vhost=/x"),
        ({"package_name": "a b", "vhost": "x"}, ["package_name", "vhost"], "service_slug"),
        ({"service_slug": "e" * 64}, ["service_slug"], "service_name"),
        ({"service_name": "\U0001f680"}, ["service_slug"], "author_name"),
        ({"service_name": "!", "package_name": "1"}, ["package_name", "service_slug"], "license"),
    ],
)
def test_what_follows_from_another_answer_is_not_blamed_with_it(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    answers: dict[str, str],
    blamed: list[str],
    proposed: str,
) -> None:
    with pytest.raises(FailedHookException):
        bake_into(tmp_path / "out", answers)
    said = capfd.readouterr()
    assert sorted(line.split()[0] for line in said.err.splitlines()) == blamed
    [line] = [each for each in said.out.splitlines() if each.startswith("Again, ")]
    assert f" {proposed}" in line.replace("'", "")
    derived = {"package_name", "input_queue", "__user_key"} | {*blamed} - {*answers}
    assert not [word for word in shlex.split(line) if word.split("=")[0] in derived | {*blamed}]
