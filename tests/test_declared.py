"""provision.py takes queues, exchanges and vhosts from the service's source, which it reads and doesn't run."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from baked import BakedProject, bake_into, load
from provisioning import DEFINITIONS, change, provision
from provisioning import load as read

INPUT = "neon_echo_input"
NOTHING: dict[str, tuple[str, ...]] = {
    "queues": (INPUT,),
    "hears": (),
    "publishes": (),
    "vhosts": (),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """One repository for all that is read in this file."""
    return bake_into(tmp_path_factory.mktemp("declared"))


@pytest.fixture
def say(made: BakedProject, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Read what one module says, as the service's only one but for the generated."""
    monkeypatch.syspath_prepend(str(made / "rabbitmq"))
    for name in ("documents", "declared"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    declared = load("declared", made / "rabbitmq" / "declared.py")
    module = made.package / "more.py"

    def read_it(text: str, *named: tuple[str, ...]) -> dict[str, Any]:
        module.write_text(textwrap.dedent(text))
        queues, exchanges = named or ((), ())
        try:
            found: dict[str, Any] = (
                declared.Reader(queues, exchanges, "/neon_echo", "neon_echo").read()._asdict()
            )
            return found
        finally:
            module.unlink()

    return read_it


def test_the_generated_service_says_what_it_consumes(say: Any) -> None:
    assert say("") == NOTHING


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('ConsumerThread(connection=c, queue="b", callback_func=f)', {"queues": (INPUT, "b")}),
        ('consumer.ConsumerThread(c, "b", f)', {"queues": (INPUT, "b")}),
        ('B = "b"\nConsumerThread(c, B, f)', {"queues": (INPUT, "b")}),
        ('P = "p"\nConsumerThread(c, f"{P}_b" + "_c", f)', {"queues": (INPUT, "p_b_c")}),
        (
            'from .service import INPUT_QUEUE as Q\nConsumerThread(c, Q + "2", f)',
            {"queues": (INPUT, f"{INPUT}2")},
        ),
        (
            """
            class Service(MQConnector):
                QUEUE: str = "b"

                def __init__(self):
                    ConsumerThread(connection=c, queue=self.QUEUE, callback_func=f)
            """,
            {"queues": (INPUT, "b")},
        ),
        (
            """
            BOTH = ("b", "c")
            consumers = {each: ConsumerThread(c, each, f) for each in BOTH}
            for name in BOTH:
                ConsumerThread(c, name + "_too", f)
            """,
            {"queues": (INPUT, "b", "c", "b_too", "c_too")},
        ),
        ('ConsumerThread(c, exchange="e", callback_func=f)', {"hears": ("e",)}),
        (
            'ConsumerThread(c, "b", f, exchange="e", routing_keys=["x"])',
            {"queues": (INPUT, "b"), "hears": ("e",)},
        ),
        ('self.register_consumer("n", self.vhost, "b", f)', {"queues": (INPUT, "b")}),
        (
            'self.register_consumer("n", vhost=v, queue="b", callback=f, exchange="e")',
            {"queues": (INPUT, "b"), "hears": ("e",)},
        ),
        ('self.register_subscriber("n", self.vhost, f, exchange="e")', {"hears": ("e",)}),
        ('self.register_subscriber("n", self.vhost, f, None, "e")', {"hears": ("e",)}),
        # What another virtual host has is its owner's business.
        ('self.register_consumer("n", "/other", "b", f)', {}),
        ('self.register_consumer("n", "neon_echo", "b", f)', {"queues": (INPUT, "b")}),
        ('ConsumerThread(self.create_mq_connection("/other"), "b", f)', {}),
        (
            """
            NEWS = "news"

            class Service(MQConnector):
                publishes = (NEWS, ("weather", "topic"))
                calls = ["near", ("far", "/there"), ("home", "/neon_echo"), ("far2", "there")]
            """,
            {"publishes": ("news", "weather"), "vhosts": ("/there",)},
        ),
        # Others have attributes of these names, too.
        ("class Count:\n    calls = field(default=0)\n    publishes: int = 0", {}),
        ("class Count(NamedTuple):\n    calls: int = 0", {}),
    ],
)
def test_names_are_found_where_they_are_written_out(
    say: Any, text: str, says: dict[str, tuple[str, ...]]
) -> None:
    assert say(text) == {**NOTHING, **says}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ConsumerThread(c, os.environ['Q'], f)", "more.py:1: the queue of a consumer"),
        ("\nConsumerThread(c, f'{x}', f)", "more.py:2: the queue of a consumer"),
        ("Q = Q\nConsumerThread(c, Q, f)", "more.py:2: the queue of a consumer"),
        ("ConsumerThread(c, 'b', f, exchange=e)", "EXCHANGES in rabbitmq/topology.py"),
        ("class S(MQConnector):\n    publishes = 'events'", "more.py:2: `publishes`"),
        ("class S(MQConnector):\n    calls = (x,)", "more.py:2: `publishes`"),
        ("class S(MQConnector):\n    calls = ('a', 'b', 'c'), ", "more.py:2: `publishes`"),
        ("def (", "more.py:1: isn't valid Python"),
        ("x = '\0'", "isn't valid Python"),
    ],
)
def test_what_isnt_written_out_is_one_line_with_its_place(say: Any, text: str, words: str) -> None:
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        say(text)
    assert type(caught.value).__name__ == "Broken"
    assert "\n" not in str(caught.value)


def test_what_is_named_beside_the_source_need_not_be_written_out_in_it(say: Any) -> None:
    found = say("ConsumerThread(c, x, f, exchange=y)", ("b",), ("e",))
    assert found["queues"] == ("b", INPUT)
    assert found["hears"] == found["publishes"] == ("e",)


def test_it_is_read_without_being_run(project: BakedProject) -> None:
    with (project.package / "service.py").open("a") as file:
        file.write(
            '\nimport nobodys_library\nraise SystemExit(7)\nConsumerThread(None, "b", None)\n'
        )
    assert provision(project).returncode == 0
    assert f"{INPUT}.dead" in str(read(project, DEFINITIONS)["queues"])
    assert "b.dead" in str(read(project, DEFINITIONS)["queues"])


def add(project: BakedProject, text: str) -> None:
    with (project.package / "service.py").open("a") as file:
        file.write(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('self.vhost = "/weather"', False),
        ('self.vhost = "weather"', False),
        ('self.vhost = "neon_echo"', True),
        ("self.vhost = vhost", True),
        ("self.vhost = HERE if HERE else None", True),
    ],
)
def test_another_virtual_host_than_that_of_the_topology_is_named(
    say: Any, made: BakedProject, text: str, fits: bool
) -> None:
    """The rights would be given where the service isn't."""
    service = made.package / "service.py"
    before = service.read_text()
    service.write_text(before.replace("self.vhost = VHOST", text))
    try:
        if fits:
            assert say("") == NOTHING
            return
        with pytest.raises(Exception, match="write the same into both") as broken:
            say("")
    finally:
        service.write_text(before)
    line = before[: before.index("self.vhost = VHOST")].count("\n") + 1
    assert str(broken.value).startswith(
        f"src/neon_echo/service.py:{line}: the service's virtual host is '/weather', and VHOST in "
        "rabbitmq/topology.py is '/neon_echo'"
    )


@pytest.mark.parametrize(
    ("call", "fits"),
    [
        ('super().__init__(config, service_name="rainy")', False),
        ('super().__init__(config, "rainy")', False),
        ("super().__init__(config, service_name)", True),
        ("super().__init__(config)", True),
    ],
)
def test_another_name_of_the_service_than_that_of_the_topology_is_named(
    say: Any, made: BakedProject, call: str, fits: bool
) -> None:
    """The user would be made under a name that the service doesn't look for."""
    service = made.package / "service.py"
    before = service.read_text()
    usual = "super().__init__(config, service_name=SERVICE_NAME)"
    assert usual in before
    service.write_text(before.replace(usual, call))
    try:
        if fits:
            assert say("") == NOTHING
            return
        with pytest.raises(Exception, match="the same into both") as broken:
            say("")
    finally:
        service.write_text(before)
    line = before[: before.index(usual)].count("\n") + 1
    assert str(broken.value) == (
        f"src/neon_echo/service.py:{line}: the service's name is 'rainy', and SERVICE in rabbitmq/topology.py is "
        "'neon_echo': write the same into both, and into __main__.py"
    )


def test_a_second_service_class_may_be_in_another_virtual_host(say: Any) -> None:
    text = """
        class Other(MQConnector):
            def __init__(self):
                self.vhost = "/other"
    """
    assert say(text) == NOTHING


def rights(project: BakedProject, user: str = "neon_echo", vhost: str = "/neon_echo") -> Any:
    [found] = [
        each
        for each in read(project, DEFINITIONS)["permissions"]
        if (each["user"], each["vhost"]) == (user, vhost)
    ]
    return found


def may(project: BakedProject, right: str, name: str, **where: str) -> bool:
    return re.search(rights(project, **where)[right], name) is not None


def test_the_definitions_follow_the_source_and_back_again(project: BakedProject) -> None:
    before, source = read(project, DEFINITIONS), project.package / "service.py"
    generated = source.read_text()
    add(
        project,
        """
        class More(MQConnector):
            publishes = ("news",)
            calls = (("far", "/there"),)

        ConsumerThread(None, "b", None)
        ConsumerThread(None, exchange="events", callback_func=None)
        """,
    )
    checked = provision(project, "--check")
    assert checked.returncode == 1 and f"{DEFINITIONS}: incomplete" in checked.stdout
    assert "next start" in provision(project).stdout
    assert provision(project, "--check").returncode == 0
    for right, name in (
        ("configure", "b"),
        ("read", "b.dead"),
        ("configure", "events"),
        ("read", "events"),
        ("write", "subscriber_events_0123ab"),
        ("write", "news"),
        ("configure", "news"),
    ):
        assert may(project, right, name), (right, name)
    for right, name in (("write", "events"), ("read", "news"), ("configure", "c")):
        assert not may(project, right, name), (right, name)
    there = {"vhost": "/there"}
    assert may(project, "configure", "neon_echo.reply.0123abcd", **there)
    assert may(project, "write", "amq.default", **there)
    assert not may(project, "configure", "far", **there)
    assert {"name": "/there"} in read(project, DEFINITIONS)["vhosts"]
    source.write_text(generated)
    assert provision(project, "--check").returncode == 1
    provision(project)
    assert read(project, DEFINITIONS) == before


def test_what_isnt_ours_stays_and_what_is_ours_comes_back_and_is_named(
    project: BakedProject,
) -> None:
    before, mine = read(project, DEFINITIONS), {"name": "mine", "vhost": "/neon_echo"}

    def edit(data: Any) -> None:
        data["policies"][0]["definition"]["delivery-limit"] = 20
        data["policies"].pop()
        data["queues"].append(mine)
        data["permissions"][0]["read"] = ".*"

    change(project, DEFINITIONS, edit)
    checked = provision(project, "--check")
    lines = checked.stdout.splitlines()
    assert checked.returncode == 1 and f"{DEFINITIONS}: incomplete" in lines
    for line in (
        "  policy 'neon_echo_input quorum' in /neon_echo: delivery-limit is 20, and is to be 100",
        "  policy 'neon_echo replies' in /neon_echo is missing",
        f"  rights of user neon_echo in /neon_echo: read is '.*', and is to be {rights_of(before)!r}",
    ):
        assert line in lines
    said = provision(project).stdout.splitlines()
    assert [line for line in lines if line.startswith("  ") and line not in said] == []
    assert provision(project, "--check").returncode == 0
    found = read(project, DEFINITIONS)
    assert found.pop("queues") == [*before.pop("queues"), mine]
    assert found == before


def rights_of(definitions: Any) -> str:
    return str(definitions["permissions"][0]["read"])


def test_definitions_of_before_learn_what_they_were_made_for(project: BakedProject) -> None:
    change(project, DEFINITIONS, lambda data: data.pop("made_for"))
    before = read(project, DEFINITIONS)
    add(project, 'ConsumerThread(None, "b", None)\n')
    assert provision(project).returncode == 0
    found = read(project, DEFINITIONS)
    assert found["made_for"]["queues"] == [INPUT, "b"]
    assert [each for each in before["queues"] if each not in found["queues"]] == []
    assert may(project, "configure", "b")


def test_a_service_that_only_listens_has_a_place_for_what_it_cant_handle(
    project: BakedProject,
) -> None:
    (project.package / "service.py").write_text(
        'ConsumerThread(None, exchange="events", callback_func=None)\n'
    )
    assert provision(project).returncode == 0
    assert "neon_echo.dead" in [each["name"] for each in read(project, DEFINITIONS)["queues"]]


def test_what_neon_needs_names_the_vhosts_of_those_who_are_asked(project: BakedProject) -> None:
    add(project, 'class More(MQConnector):\n    calls = (("far", "/there"),)\n')
    provision(project)
    printed = project.script("rabbitmq/provision.py", "--print", "neon").stdout
    assert printed.count('"vhost": "/there"') >= 2
    assert '{\n      "name": "/there"' not in printed, "who is asked has the vhost already"


def test_the_source_says_what_the_service_does(made: BakedProject, tmp_path: Path) -> None:
    """What is read is what the service, run, would consume."""
    script = (
        "from neon_echo.service import NeonEchoService as S; s = S(config={}); "
        "print([c.queue for c in s.consumers.values()], s.publishes, s.calls)"
    )
    assert made.run("python", "-c", script).stdout == f"['{INPUT}'] () ()\n"
