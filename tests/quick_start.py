"""RabbitMQ nodes that start with half the processor time; what they do afterwards is the same.

A start is five seconds of processor time, and the tests need about a hundred. Most of it goes into code:
RabbitMQ loads a thousand modules, each for itself, and Erlang looks for each in seventy folders of
plugins, of which a node needs a third. Here it is told of these alone, the largest first, and to load them
all together. Where RabbitMQ is installed in another way than expected, it starts as it always does.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from erlang import at_once, result, script

if TYPE_CHECKING:
    from local import LocalBroker as Base
else:
    Base = object

#: Erlang gives two nodes seven seconds to greet each other, rabbitmqctl and a broker among them, and says "unable
#: to perform an operation on node" afterwards: too few on a machine where much else runs.
PATIENT = "-kernel net_setuptime 120"
#: In an application's description (`rabbit.app`): what has to be there before it.
_NEEDS = re.compile(r"\{\s*(?:optional_|included_)?applications\s*,\s*\[(.*?)\]", re.DOTALL)


class QuickStart(Base):
    """To be put before LocalBroker where a class inherits from it."""

    #: As Erlang calls it.
    name = "local@localhost"
    #: Plugins that run beside those that LocalBroker's options ask for.
    further_plugins: tuple[str, ...] = ()
    #: Whether it has said that it has started wholly: its port opens a moment before.
    _has_started = False

    def start(self, timeout: float = 300.0) -> None:
        """As everywhere, with the time that it takes on a machine where much else runs."""
        self._has_started = False
        try:
            super().start(timeout)
        finally:
            self._environment.pop("ERL_AFLAGS", None)  # rabbitmqctl is a program in Erlang, too

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """As everywhere; the first time it waits until the node takes commands.

        The usual commands are given without rabbitmqctl, if the node knows what that would call.
        """
        if expression := at_once(arguments):
            with contextlib.suppress(AssertionError):
                return self.evaluate(script(expression), timeout)
        if not self._has_started:
            self._has_started = True
            self.ctl("await_startup", timeout=timeout)
        said: str = super().ctl(*arguments, timeout=timeout)
        return said

    def evaluate(self, expression: str, timeout: float = 60.0) -> str:
        """Evaluate an expression that gives a text, in Erlang, on the node."""
        done = subprocess.run(
            [
                Path(os.path.realpath(self.installation.epmd)).with_name("erl_call"),
                *("-sname", self.name),
                *("-c", (Path(self._environment["HOME"]) / ".erlang.cookie").read_text().strip()),
                "-e",
            ],
            env=self._environment,
            input=expression,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return result(done.stdout or done.stderr)

    def _prepare(self) -> None:
        super()._prepare()
        for name in ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_CTL_ERL_ARGS"):
            self._environment[name] = f"{self._environment.get(name, '')} {PATIENT}".strip()
        enabled = self.data / "enabled_plugins"
        plugins = [*re.findall(r"\w+", enabled.read_text(encoding="utf-8")), *self.further_plugins]
        enabled.write_text(f"[{','.join(plugins)}].\n", encoding="utf-8")
        wanted = {"rabbit", *plugins}
        otp = Path(os.path.realpath(self.installation.epmd)).parents[2] / "lib"
        found = _needed(wanted, _applications(otp) | _applications(self.installation.plugins))
        if wanted <= found.keys():
            self._shorten(found)

    def _shorten(self, found: dict[str, Path]) -> None:
        """Tell the node of these applications alone."""
        plugins = self.data / "plugins"
        plugins.mkdir(exist_ok=True)
        modules: dict[Path, list[str]] = {}
        for folder in found.values():
            if folder.parent == self.installation.plugins:
                link = plugins / folder.name
                if not link.is_symlink():
                    link.symlink_to(folder)
                folder = link
            modules[folder / "ebin"] = [file.stem for file in folder.glob("ebin/*.beam")]
        path = sorted(modules, key=lambda folder: -len(modules[folder]))
        names = ",".join(f"'{name}'" for each in modules.values() for name in each)
        self._environment |= {
            "RABBITMQ_PLUGINS_DIR": str(plugins),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(
                [self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"], "-pa", *map(str, path)]
            ),
            # Before RabbitMQ is called, which its own arguments come too late for. Each minute it starts another Erlang
            # that sees to epmd and has this, too, but none of its arguments: that has no use for the modules.
            "ERL_AFLAGS": '-eval "init:get_argument(pa) =:= error orelse '
            f'code:ensure_modules_loaded([{names}])."',
        }


def _applications(folder: Path) -> dict[str, Path]:
    """Folders of Erlang's applications, by name; of several versions the newest."""
    found = [each for each in folder.glob("*-*") if each.is_dir()]
    found.sort(key=lambda each: [int(number) for number in re.findall(r"\d+", each.name)])
    return {each.name.partition("-")[0]: each for each in found}


def _needed(wanted: set[str], known: dict[str, Path]) -> dict[str, Path]:
    """These applications and all that they need, as far as it is there."""
    found: dict[str, Path] = {}
    todo = [*wanted]
    while todo:
        name = todo.pop()
        description = known.get(name, Path()) / "ebin" / f"{name}.app"
        if name not in found and description.is_file():
            found[name] = known[name]
            for needs in _NEEDS.findall(description.read_text(encoding="utf-8")):
                todo += re.findall(r"\w+", needs)
    return found
