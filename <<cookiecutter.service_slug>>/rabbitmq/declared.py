"""What the service says of itself: what it consumes, hears, publishes to, and whom it calls.

Its source is read, not run: this works on a machine that has neither pika nor what else the service needs.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from documents import ROOT, Broken

SOURCE = ROOT / "src"
#: The module that is read first: the dead letters of subscribers go to those of the first queue.
FIRST = "service.py"
#: The vendored connector, which consumes nothing by itself.
CONNECTOR = "mq_connector"
#: How names are found in the calls that make consumers: positions of queue and exchange, None for a keyword only.
CONSUMERS: dict[str, tuple[int | None, int | None]] = {
    "register_consumer": (2, 7),
    "register_subscriber": (None, 4),
}
#: What ends the name of a class whose instances consume: their second parameter is the queue.
THREAD = "ConsumerThread"
#: Attributes of a class, and what a name alone means there.
PUBLISHES, CALLS = "publishes", "calls"


class Declared(NamedTuple):
    """Names, each once, in the order in which they stand."""

    #: Queues that it consumes.
    queues: tuple[str, ...] = ()
    #: Exchanges that it hears.
    hears: tuple[str, ...] = ()
    #: Exchanges that it publishes to.
    publishes: tuple[str, ...] = ()
    #: Virtual hosts, beside its own, in which it asks others.
    vhosts: tuple[str, ...] = ()


class Module:
    """One file of the service, and the names of text in it."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path = path
        self.tree = tree
        self.constants: dict[str, ast.expr] = dict(assigned(tree.body))
        #: By the name of the class.
        self.attributes: dict[str, dict[str, ast.expr]] = {}
        #: Classes that inherit from others, as a service does.
        self.derived: set[str] = set()
        self.parents: dict[ast.AST, ast.AST] = {}

    def where(self, node: ast.AST) -> str:
        """File and line, for a message."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


class Unreadable(Exception):
    """A name that isn't written out."""


class Reader:
    """Reads all modules of the service.

    :param queues: queues that are named elsewhere; with any, a queue that isn't written out is none of our business
    :param exchanges: the same of exchanges
    :param vhost: the service's own virtual host
    :param service: its name
    """

    def __init__(
        self, queues: tuple[str, ...], exchanges: tuple[str, ...], vhost: str, service: str
    ) -> None:
        self._named = {"queue": queues, "exchange": exchanges}
        self._vhost = vhost
        self._service = service
        self._modules = {path: parse(path) for path in sources()}

    def read(self) -> Declared:
        """All that the source says.

        :raises Broken: a name isn't written out, with file and line; or vhost or service are called otherwise there
        """
        self._check_vhost()
        self._check_service()
        queues, hears = list(self._named["queue"]), list(self._named["exchange"])
        publishes, vhosts = list(self._named["exchange"]), []
        for module in self._modules.values():
            calls = [each for each in ast.walk(module.tree) if isinstance(each, ast.Call)]
            for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
                found, heard = self._consumer(module, call)
                queues += found
                hears += heard
            for name, attributes in module.attributes.items():
                if name not in module.derived:
                    continue  # such as a dataclass with a field that is called so
                publishes += [name for name, _ in self._pairs(module, attributes.get(PUBLISHES))]
                vhosts += [vhost for _, vhost in self._pairs(module, attributes.get(CALLS))]
        others = [f"/{each.removeprefix('/')}" for each in vhosts if each]
        return Declared(
            unique(queues),
            unique(hears),
            unique(publishes),
            unique([each for each in others if each != self._vhost]),
        )

    def _check_vhost(self) -> None:
        """All rights are given in one virtual host: a service that has moved to another one is told so."""
        found: dict[str, str] = {}
        for module in self._modules.values():
            for node in ast.walk(module.tree):
                if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "self.vhost":
                    continue
                with contextlib.suppress(Unreadable, RecursionError):
                    for text in self._texts(module, node.value):
                        found[f"/{text.removeprefix('/')}"] = module.where(node)
        if found and self._vhost not in found:
            vhost, where = next(iter(found.items()))
            raise Broken(
                f"{where}: the service's virtual host is {vhost!r}, and VHOST in rabbitmq/topology.py is "
                f"{self._vhost!r}: write the same into both"
            )

    def _check_service(self) -> None:
        """A user is made under one name: a service that looks for another one in mq_config.json is told so."""
        found: dict[str, str] = {}
        for module in self._modules.values():
            for node in ast.walk(module.tree):
                if not isinstance(node, ast.Call) or ast.unparse(node.func) != "super().__init__":
                    continue
                given = [each.value for each in node.keywords if each.arg == "service_name"]
                for name in given or node.args[1:2]:
                    with contextlib.suppress(Unreadable, RecursionError):
                        found.update(dict.fromkeys(self._texts(module, name), module.where(node)))
        if found and self._service not in found:
            name, where = next(iter(found.items()))
            raise Broken(
                f"{where}: the service's name is {name!r}, and SERVICE in rabbitmq/topology.py is "
                f"{self._service!r}: write the same into both, and into __main__.py"
            )

    def _consumer(self, module: Module, call: ast.Call) -> tuple[list[str], list[str]]:
        """Queue and exchange of a call, if it makes a consumer."""
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else name
        places = (1, None) if name.endswith(THREAD) else CONSUMERS.get(name)
        if places is None or self._is_elsewhere(module, call):
            return [], []
        given: dict[str, list[str]] = {}
        for what, place in zip(("queue", "exchange"), places, strict=True):
            node = next((each.value for each in call.keywords if each.arg == what), None)
            if node is None and place is not None and place < len(call.args):
                node = call.args[place]
            given[what] = self._names(module, node, what) if node is not None else []
        return given["queue"], given["exchange"]

    def _names(self, module: Module, node: ast.expr, what: str) -> list[str]:
        try:
            return [each for each in self._texts(module, node) if each]
        except (Unreadable, RecursionError):
            if self._named[what]:
                return []
            constant = f"{what}s".upper()
            raise Broken(
                f"{module.where(node)}: the {what} of a consumer isn't written out here: write its name, "
                f"or name it in {constant} in rabbitmq/topology.py"
            ) from None

    def _is_elsewhere(self, module: Module, call: ast.Call) -> bool:
        """Whether it consumes in a virtual host that isn't the service's own, and names it."""
        found = [*call.args[1:2], *(each.value for each in call.keywords if each.arg == "vhost")]
        if not ast.unparse(call.func).endswith(tuple(CONSUMERS)):
            made = [each.value for each in call.keywords if each.arg == "connection"]
            made += call.args[:1]
            found = [each.args[0] for each in made if isinstance(each, ast.Call) and each.args]
        for node in found:
            try:
                return f"/{self._texts(module, node)[0].removeprefix('/')}" != self._vhost
            except (Unreadable, IndexError, RecursionError):
                continue  # such as self.vhost
        return False

    def _pairs(self, module: Module, node: ast.expr | None) -> Iterator[tuple[str, str]]:
        """Names of a class's attribute, with what each has beside it."""
        if node is None or (isinstance(node, ast.Constant) and not isinstance(node.value, str)):
            return  # something else that is called so
        try:
            node = self._resolved(module, node)
            if not isinstance(node, (ast.Tuple, ast.List)):
                raise Unreadable
            for each in node.elts:
                if isinstance(each, (ast.Tuple, ast.List)) and len(each.elts) == 2:
                    [name], [beside] = (self._texts(module, part) for part in each.elts)
                    yield name, beside
                else:
                    for name in self._texts(module, each):
                        yield name, ""
        except (Unreadable, ValueError, RecursionError):
            raise Broken(
                f"{module.where(node)}: `{PUBLISHES}` and `{CALLS}` are tuples of names or of pairs, written "
                'out: ("events", ("weather", "topic"))'
            ) from None

    def _texts(self, module: Module, node: ast.expr) -> list[str]:
        """What an expression may be: one text, or those of a loop."""
        if isinstance(node, ast.Constant):
            if node.value is None or isinstance(node.value, str):
                return [node.value or ""]
            raise Unreadable
        if isinstance(node, ast.JoinedStr):
            parts = [
                self._texts(module, each.value if isinstance(each, ast.FormattedValue) else each)
                for each in node.values
                if not isinstance(each, ast.FormattedValue) or plain(each)
            ]
            if len(parts) != len(node.values):
                raise Unreadable
            return products(parts)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return products([self._texts(module, node.left), self._texts(module, node.right)])
        looped = self._looped(module, node)
        if looped is not None:
            return looped
        known = self._resolved(module, node)
        if known is node:
            raise Unreadable
        return self._texts(self._home(module, node), known)

    def _looped(self, module: Module, node: ast.expr) -> list[str] | None:
        """All that the variable of a loop around it is."""
        if not isinstance(node, ast.Name):
            return None
        around = module.parents.get(node)
        while around is not None:
            loops: list[ast.For | ast.comprehension] = list(getattr(around, "generators", ()))
            loops += [around] if isinstance(around, ast.For) else []
            for loop in loops:
                if isinstance(loop.target, ast.Name) and loop.target.id == node.id:
                    values = self._resolved(module, loop.iter)
                    if not isinstance(values, (ast.Tuple, ast.List, ast.Set)):
                        raise Unreadable
                    home = self._home(module, loop.iter)
                    return [text for each in values.elts for text in self._texts(home, each)]
            around = module.parents.get(around)
        return None

    def _resolved(self, module: Module, node: ast.expr) -> ast.expr:
        """What a name of a constant stands for, itself where it is none."""
        return self._found(module, node)[1]

    def _home(self, module: Module, node: ast.expr) -> Module:
        """Where that stands."""
        return self._found(module, node)[0]

    def _found(self, module: Module, node: ast.expr) -> tuple[Module, ast.expr]:
        if isinstance(node, ast.Name):
            if node.id in module.constants:
                return self._found(module, module.constants[node.id])
            imported = self._imported(module, node.id)
            if imported is not None:
                return self._found(*imported)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # Of the class itself or, by `self`, of whichever has it: a service has one.
            for other in (module, *self._modules.values()):
                for name, attributes in other.attributes.items():
                    if node.attr in attributes and node.value.id in ("self", "cls", name):
                        return self._found(other, attributes[node.attr])
        return module, node

    def _imported(self, module: Module, name: str) -> tuple[Module, ast.expr] | None:
        """A constant that comes from another module of the service."""
        for node in module.tree.body:
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                if (alias.asname or alias.name) != name:
                    continue
                ending = Path(*(node.module or "__init__").split(".")).with_suffix(".py").parts
                for other in self._modules.values():
                    if other.path.parts[-len(ending) :] == ending and alias.name in other.constants:
                        return other, other.constants[alias.name]
        return None


def sources() -> list[Path]:
    """The service's own modules, the one that is generated first."""
    found = [
        path
        for path in sorted(SOURCE.rglob("*.py"))
        if CONNECTOR not in path.relative_to(SOURCE).parts
    ]
    return sorted(found, key=lambda path: path.name != FIRST)


def parse(path: Path) -> Module:
    """:raises Broken: it is no Python, or no text"""
    name = path.relative_to(ROOT)
    try:
        module = Module(path, ast.parse(path.read_bytes(), filename=str(name)))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise Broken(f"{name}{line}: isn't valid Python ({error}): repair it first") from None
    except OSError as error:
        raise Broken(f"{name} can't be read ({error.strerror})") from None
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            module.attributes[node.name] = dict(assigned(node.body))
            if node.bases:
                module.derived.add(node.name)
        for child in ast.iter_child_nodes(node):
            module.parents[child] = node
    return module


def assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Names that are given a value, and the value."""
    for node in body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def plain(value: ast.FormattedValue) -> bool:
    """Whether it is put into the text as it is."""
    return value.conversion == -1 and value.format_spec is None


def products(parts: list[list[str]]) -> list[str]:
    """Every text that the parts may make."""
    texts = [""]
    for part in parts:
        texts = [text + each for text in texts for each in part]
    return texts


def unique(names: list[str]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(names))
