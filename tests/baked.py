"""Rendering the template for tests: in a folder of their own, with settings of their own."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import forks
import jinja2
import yaml
from cookiecutter import prompt
from cookiecutter.main import cookiecutter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The template's repository.
TEMPLATE = Path(__file__).resolve().parent.parent
#: The folder in it that is rendered, with its literal name.
TREE = TEMPLATE / "<<cookiecutter.service_slug>>"
#: The vendored connector, which is copied and never rendered.
CONNECTOR = TREE / "src" / "<<cookiecutter.package_name>>" / "mq_connector"
#: What tests import from where it lies: the connector, which works as a package of that name because
#: it imports nothing but relatives, and `local`, the generated repository's way to run a broker.
IMPORTABLE = [str(CONNECTOR.parent), str(TREE / "rabbitmq")]
#: The environment of the public connector, which `make test` makes beside that of the tests.
INCUMBENT = TEMPLATE / ".venv-incumbent"
#: What provision.py makes: never rendered, never in git.
SECRETS = (".env", "mq_config.json", "rabbitmq/definitions.json", "rabbitmq/erlang.cookie")


def incumbent_python() -> str:
    """The Python that has the public connector and its clients.

    :raises FileNotFoundError: it hasn't been made
    """
    python = INCUMBENT / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python} is missing: `make test` makes it")
    return str(python)


def with_uv() -> dict[str, str]:
    """PATH with the tests' uv behind all else: a generated repository's tools are installed in a third of
    the processor time that pip takes, whose way test_make.py goes."""
    return {"PATH": f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"}


def make_environment(folder: Path, *packages: str) -> None:
    """Make a virtual environment with pip and these packages in it, with the tests' uv: a tenth of what
    Python's own module and pip take.

    :param folder: where it goes
    """
    uv = Path(sys.executable).with_name("uv")
    python = folder / "bin" / "python"
    made = ["venv", "--quiet", "--seed", "--python", sys.executable, str(folder)]
    subprocess.run([uv, *made], check=True, timeout=300)
    if packages:
        installed = ["pip", "install", "--quiet", "--python", str(python), *packages]
        subprocess.run([uv, *installed], check=True, timeout=300)


def outside() -> dict[str, str]:
    """The environment as it is outside these tests: without what `make test` and pytest put into
    it, and without settings of some other service."""
    ours = ("MAKE", "MFLAGS", "MQ_", "NEON_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@dataclass(frozen=True)
class BakedProject:
    """A generated repository."""

    path: Path
    #: Every variable of cookiecutter.json as it was answered, derived ones included.
    answers: Mapping[str, str]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def package(self) -> Path:
        """The folder with the service's modules."""
        return self.path / "src" / self.answers["package_name"]

    def has_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def metadata(self) -> dict[str, Any]:
        """What pyproject.toml holds."""
        return tomllib.loads(self.read("pyproject.toml"))

    def files(self) -> set[str]:
        """Paths of all files, relative to the repository, without git's own."""
        found = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if path.parts[0] != ".git"}

    def run(
        self,
        *command: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository; `timeout` in seconds.

        `python` is the tests' own, with the repository's `src` to import from. With `check`, a
        failure raises with what the command printed.
        """
        words = [sys.executable if word == "python" else os.fspath(word) for word in command]
        environment = {**outside(), "PYTHONPATH": str(self.path / "src"), **(env or {})}
        done = subprocess.run(
            words, cwd=self.path, env=environment, timeout=timeout, capture_output=True, text=True
        )
        if check and done.returncode:
            raise AssertionError(f"{words} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def script(
        self, name: str, *words: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """As `run` runs one of its scripts that are in no package, in less time."""
        done = forks.run(["-B", name, *words], cwd=self.path, env=outside())
        if check and done.returncode:
            raise AssertionError(f"{name} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done


def parse(name: str, text: str) -> Any:
    """Parse a file by its ending; None for one without a syntax that could be checked here."""
    if name.endswith(".py"):
        return ast.parse(text, name)
    if name.endswith(".toml"):
        return tomllib.loads(text)
    if name.endswith((".yaml", ".yml")):
        found = list(yaml.safe_load_all(text))
        return found[0] if len(found) == 1 else found
    if name.endswith(".json"):
        return json.loads(text)
    return None


def load(name: str, path: Path) -> Any:
    """Import a script of a generated repository that is in no package, with what lies beside it.

    Another repository's modules have the same names, so neither finds those of the other.
    """
    beside = {each.stem for each in path.parent.glob("*.py")}
    others = {each: sys.modules.pop(each) for each in beside & sys.modules.keys()}
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    writes, sys.dont_write_bytecode = not sys.dont_write_bytecode, True
    try:
        sys.modules[name] = module  # where dataclasses look for the module that they are in
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = not writes
        sys.path.remove(str(path.parent))
        for each in beside - {name}:
            sys.modules.pop(each, None)
        sys.modules.update(others)
    return module


def settings(folder: Path, defaults: Mapping[str, object] | None = None) -> Path:
    """A configuration for cookiecutter that keeps it away from the user's home.

    :param defaults: the user's own, in place of the template's
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cookiecutter.yaml"
    folders = {"cookiecutters_dir": str(folder / "clones"), "replay_dir": str(folder / "replay")}
    content = {**folders, "default_context": dict(defaults or {})}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def bake_into(
    folder: Path,
    options: Mapping[str, str] | None = None,
    *,
    template: Path = TEMPLATE,
    settings_folder: Path | None = None,
    typed: bool = False,
) -> BakedProject:
    """Generate a repository below `folder`, with defaults for whatever `options` leave out.

    `typed` answers the prompts with `options`, as a person does. Without it they are given as on
    the command line, where cookiecutter takes each for a template that it still has to render.
    """
    config = settings(settings_folder or folder.parent / f"{folder.name}-settings")
    answers = patch_prompts(options or {}) if typed else contextlib.nullcontext()
    with answers, compiled_once():
        rendered = cookiecutter(
            str(template),
            no_input=not typed,
            extra_context=None if typed else dict(options or {}),
            output_dir=str(folder),
            config_file=str(config),
        )
    noted = (config.parent / "replay" / f"{template.name}.json").read_text(encoding="utf-8")
    return BakedProject(Path(rendered), json.loads(noted)["cookiecutter"])


#: Code that jinja has compiled, by its source and all that it depends on beside.
_compiled: dict[object, Any] = {}
#: Of an environment, what decides how a source is read.
_SYNTAX = (
    *(
        f"{kind}_{end}_string"
        for kind in ("block", "variable", "comment")
        for end in ("start", "end")
    ),
    *("line_statement_prefix", "line_comment_prefix", "trim_blocks", "lstrip_blocks"),
    *("newline_sequence", "keep_trailing_newline", "autoescape", "optimized"),
)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Compile each of the template's files once in this process: that is two thirds of a rendering's time."""
    compiles = jinja2.Environment.compile

    @functools.wraps(compiles)
    def compile_once(self: jinja2.Environment, source: Any, *rest: Any, **named: Any) -> Any:
        syntax = tuple(getattr(self, name) for name in _SYNTAX)
        key = (source, rest, tuple(named.items()), syntax, tuple(self.extensions))
        if key not in _compiled:
            _compiled[key] = compiles(self, source, *rest, **named)
        return _compiled[key]

    with mock.patch.object(jinja2.Environment, "compile", compile_once):
        yield


@contextlib.contextmanager
def patch_prompts(options: Mapping[str, str]) -> Iterator[None]:
    """Answer cookiecutter's prompts from `options`, else with what they propose."""

    def read_variable(name: str, default: str, *_: object) -> str:
        return options.get(name, default)

    def read_choice(name: str, choices: list[str], *_: object) -> str:
        return options.get(name, choices[0])

    with (
        mock.patch.object(prompt, "read_user_variable", read_variable),
        mock.patch.object(prompt, "read_user_choice", read_choice),
    ):
        yield


def command_line(
    folder: Path,
    *words: str,
    defaults: Mapping[str, object] | None = None,
    template: Path = TEMPLATE,
    environment: Mapping[str, str] | None = None,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """What a user gets who types `cookiecutter --no-input TEMPLATE key=value...` in `folder`.

    :param defaults: the user's own, in place of the template's
    :param template: its folder, or an archive of it
    :param environment: variables beside the tests' own; so are all other names
    """
    config = settings(folder.parent / f"{folder.name}-settings", defaults)
    command = ["-m", "cookiecutter", "--no-input", "--config-file", str(config)]
    folder.mkdir(exist_ok=True)
    temporary = config.parent / "temporary"  # cookiecutter leaves its copies of the hooks there
    temporary.mkdir(exist_ok=True)
    variables = {**os.environ, "TMPDIR": str(temporary), **(environment or {}), **env}
    return forks.run([*command, str(template), *words], cwd=folder, env=variables)


def copy_template(target: Path) -> Path:
    """Copy the template as somebody else gets it: without git's folder and the tools' leavings."""
    leavings = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache")
    return Path(shutil.copytree(TEMPLATE, target, ignore=leavings))
