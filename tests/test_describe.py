"""`describe`: an AsyncAPI document by the official schema, true of the running service, and a page of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import brokers
import jsonschema
import pytest
from baked import BakedProject, bake_into
from recipes import WITH_RIGHTS, merged, recipes
from running import running

#: The schema of AsyncAPI's makers; a test fetches it as it does a peer, none of it is kept.
SPECS = "@asyncapi/specs@6.11.1"
#: Names that have to be told from markup, and a type of each kind that a handler may have.
OPTIONS = {"service_name": "Tim's <b>Weather</b> & \u6c14", "package_name": "weather"}
TYPES = '''

class Scale(enum.Enum):
    """How a temperature is told."""

    CELSIUS = "C"
    KELVIN = "K"


@dataclass
class Place:
    """Somewhere on <earth>."""

    latitude: float
    longitude: float
    near: list[Place] = field(default_factory=list)


class Weather(TypedDict, total=False):
    temperature: Required[float]
    words: list[str] | None


@dataclass
class Question:
    where: Place
    scale: Scale = Scale.CELSIUS
    days: Literal[1, 7] = 1
    more: dict[str, Any] | None = None
'''


#: What was printed, by the folder and the words: most of what follows looks at the same three projects.
_printed: dict[tuple[Path, tuple[str, ...]], str] = {}


def describe(project: BakedProject, *words: str) -> str:
    """What the command prints for a project that changes no more."""
    key = (project.path, words)
    if key not in _printed:
        package = project.answers["package_name"]
        _printed[key] = project.run("python", "-B", "-m", package, "describe", *words).stdout
    return _printed[key]


def give_types(project: BakedProject) -> None:
    """Write type hints into the handler."""
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    imports = "import enum\nfrom dataclasses import dataclass, field\n"
    for old, new in {
        "from typing import Any\n": f"{imports}from typing import Any, Literal, TypedDict\n"
        "from typing_extensions import Required\n",
        "\n\nclass ": f"{TYPES}\n\nclass ",
        "request: dict[Any, Any]) -> dict[Any, Any]": "request: Question) -> Weather",
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    project = bake_into(tmp_path_factory.mktemp("typed"), OPTIONS)
    give_types(project)
    return project


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A service with all that the recipes have for queues, exchanges and other services, and the rights to it."""
    project = bake_into(tmp_path_factory.mktemp("connected"))
    module = project.package / "service.py"
    text = module.read_text(encoding="utf-8")
    pieces = recipes(project.read("docs/recipes.md"))
    for title in WITH_RIGHTS:
        text = merged(text, pieces[title])
    module.write_text(text, encoding="utf-8")
    project.run("python", "rabbitmq/provision.py")
    return project


@pytest.fixture(params=["plain", "typed", "connected"])
def any_project(
    request: pytest.FixtureRequest,
    default_project: BakedProject,
    typed: BakedProject,
    connected: BakedProject,
) -> BakedProject:
    return {"plain": default_project, "typed": typed, "connected": connected}[request.param]


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """AsyncAPI's own schema."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("no npm, which brings AsyncAPI's schema")
    folder = tmp_path_factory.mktemp("asyncapi")
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    words += ["--fetch-retries=0", "--fetch-timeout=30000", SPECS]  # milliseconds
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{SPECS} doesn't come")
    if done.returncode:
        pytest.skip(f"{SPECS} can't be had: {done.stderr.strip()[-200:]}")
    file = folder / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    return json.loads(file.read_text(encoding="utf-8"))


def references(value: Any) -> Iterator[str]:
    """Each reference in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def resolve(document: Mapping[str, Any], reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


@pytest.mark.slow  # the schema is a large one
def test_the_document_is_valid_by_the_official_schema(
    any_project: BakedProject, official: Any
) -> None:
    document = json.loads(describe(any_project))
    checker = jsonschema.Draft7Validator(official, format_checker=jsonschema.FormatChecker())
    assert [f"{each.json_path}: {each.message}" for each in checker.iter_errors(document)] == []
    document["operations"]["bad"] = {"action": "ask"}
    assert not checker.is_valid(document)


@pytest.mark.slow
def test_its_references_lead_somewhere(any_project: BakedProject) -> None:
    document = json.loads(describe(any_project))
    found = set(references(document))
    assert len(found) > 5
    for reference in found:
        assert resolve(document, reference), reference


def test_its_schemas_take_what_the_handler_takes(typed: BakedProject) -> None:
    document = json.loads(describe(typed))
    schema = {**document["components"]["messages"]["weather_input.request"]["payload"]}
    checker = jsonschema.Draft7Validator({**schema, "components": document["components"]})
    there = {"latitude": 1.5, "longitude": 2}
    good = {"where": {**there, "near": [there]}, "scale": "K", "days": 7, "message_id": "1"}
    assert checker.is_valid(good)
    assert checker.is_valid({"where": there, "more": None})
    for change in (
        {"where": {"latitude": 1}},
        {"where": {**there, "near": [{}]}},
        {"scale": "F"},
        {"days": 2},
        {"more": "text"},
    ):
        assert not checker.is_valid({**good, **change}), change
    place = document["components"]["schemas"]["Place"]
    assert place["description"] == "Somewhere on <earth>."
    assert document["components"]["schemas"]["Weather"]["required"] == ["temperature"]


def test_hints_that_cant_be_read_are_told_and_cost_nothing_else(project: BakedProject) -> None:
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("request: dict[Any, Any])", "request: Nothing)"), encoding="utf-8")
    message = json.loads(describe(project))["components"]["messages"]["neon_echo_input.request"]
    assert "NameError: name 'Nothing' is not defined" in message["description"]


def test_no_password_and_no_user_is_in_it(any_project: BakedProject) -> None:
    for user in json.loads(any_project.read("mq_config.json"))["users"].values():
        for text in (describe(any_project), describe(any_project, "--html")):
            assert user["password"] not in text


def test_it_needs_no_configuration(project: BakedProject) -> None:
    (project / "mq_config.json").unlink()
    document = json.loads(
        project.run("python", "-B", "-m", "neon_echo", "describe", env={"HOME": "/none"}).stdout
    )
    assert "servers" not in document
    assert document["channels"]["neon_echo_input"]["bindings"]["amqp"]["queue"]["vhost"] == (
        "/neon_echo"
    )


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_its_channels_are_what_the_running_service_has_at_the_broker(
    connected: BakedProject, tmp_path: Path
) -> None:
    document = json.loads(describe(connected))

    def addresses(action: str, kind: str) -> set[str]:
        channels = [
            resolve(document, each["channel"]["$ref"])
            for each in document["operations"].values()
            if each["action"] == action
        ]
        return {each["address"] for each in channels if each["bindings"]["amqp"]["is"] == kind}

    with (
        brokers.installed_node(connected) as broker,
        running(connected, broker.port, tmp_path / "home"),
    ):

        def listed(what: str, column: str) -> set[str]:
            words = ("--quiet", "--no-table-headers", "-p", "/neon_echo")
            return {*broker.ctl(what, *words, column).splitlines()}

        private = {each for each in listed("list_queues", "name") if each.startswith("subscriber_")}
        assert len(private) == 2
        consumed = {"neon_echo_input", "neon_echo_second"}
        assert listed("list_consumers", "queue_name") - private == consumed
        assert addresses("receive", "queue") == consumed
        dead = listed("list_queues", "name") - private - consumed
        assert addresses("send", "queue") == dead | {"weather_input"}
        sources = listed("list_bindings", "source_name")
        heard = {each for each in sources if each and not each.endswith(".dead")}
        assert addresses("receive", "routingKey") == heard == {"neon_events", "weather"}
        assert addresses("send", "routingKey") == {"neon_news"}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.anchors.add(f"#{value}")
            if name in ("href", "src") and value:
                self.links.add(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_without_a_network(any_project: BakedProject) -> None:
    text = describe(any_project, "--html")
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "b"}
    assert page.links <= page.anchors
    assert "url(" not in text and "@import" not in text
    assert json.loads(describe(any_project))["info"]["description"] in page.text


def test_the_page_shows_types_and_what_they_may_be(typed: BakedProject) -> None:
    page = Page(describe(typed, "--html"))
    assert {"#type-Place", "#type-Scale", "#type-Weather", "#type-Question"} <= page.anchors
    assert {"#type-Place", "#type-Scale", "#type-Question"} <= page.links
    for words in ("Somewhere on <earth>.", "'C' or 'K'", "latitude (required)", "weather_input"):
        assert words in page.text
