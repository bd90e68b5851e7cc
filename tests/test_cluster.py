"""compose.cluster.yaml, started for real: three brokers, of which any one may go, and what docs/scaling.md says of it."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from baked import TREE, bake_into
from cluster import NODES, Cluster, Load
from connector.functional.peer import Peer
from pages import section, shell_blocks, type_in
from test_containers import docker, lacking
from waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(900)]

#: Seconds until requests are answered again after a broker's death: what is promised is measured on a machine with
#: nothing else to do (docs/scaling.md); this ends what hangs.
BOUND = 45.0
PAGE = (TREE / "docs" / "scaling.md").read_text(encoding="utf-8")
#: What keeps the third broker from ever coming up.
BROKEN = {"services": {"rabbitmq-3": {"command": ["sh", "-c", "echo the disk is gone; exit 1"]}}}


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """One broker with a dead letter, of which three are made; but the third never comes up."""
    if reason := lacking():
        pytest.skip(reason)
    # Not below pytest's own folder, which no other user may enter.
    home = Path(tempfile.mkdtemp(prefix="neon-mq-"))
    home.chmod(0o711)
    cluster = Cluster(bake_into(home / "generated"), f"neon-test-{uuid.uuid4().hex[:8]}", {})
    try:
        cluster.write_settings()
        cluster.have_requests_say_how_long_they_take()
        try:
            cluster.compose("up", "--detach", "--wait", NODES[0])
            peer = Peer(cluster.parameters(NODES[0]))
            peer.publish("neon_echo_input.dead", b"of before", delivery_mode=2)
            peer.close()
            (cluster.project / "broken.yaml").write_text(yaml.safe_dump(BROKEN))
            files = ("compose.yaml", "compose.cluster.yaml", "broken.yaml")
            together = [word for name in files for word in ("--file", name)]
            cluster.compose(*together, "up", "--build", "--detach")
            cluster.compose(*together, "up", "--detach", "--wait", "--no-deps", *NODES[:2])
            yield cluster
        finally:
            cluster.remove()
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def three(two: Cluster) -> Cluster:
    """The same with the third, which has been repaired, and as the page has it."""
    start, as_default, _ = shell_blocks(section(PAGE, "Three brokers"))
    as_default = as_default.replace("<< cookiecutter.vhost >>", two.project.answers["vhost"])
    for script in (start, as_default):
        type_in(script, two.project.path, {"COMPOSE_PROJECT_NAME": two.name})
    eventually(two.are_three, 120, lambda: str(two.queues(NODES[0], "members")), every=1)
    return two


def test_a_broker_that_never_comes_up_is_named_and_the_other_two_serve(two: Cluster) -> None:
    health = ["python", "-m", "neon_echo", "health"]
    eventually(lambda: not two.inside(*health, check=False).returncode, 180, every=1)
    assert two.ask(text="hi")["echo"]["text"] == "hi"
    *_, ask = shell_blocks(section(PAGE, "Three brokers"))
    words = ask.replace("<< cookiecutter.package_name >>", "neon_echo")
    doctor = type_in(words, two.project.path, {"COMPOSE_PROJECT_NAME": two.name}).splitlines()
    [named] = [line for line in doctor if line.startswith("note  no connection to ")]
    assert named.startswith("note  no connection to rabbitmq-3:5672: ")
    assert named.endswith("; the service does without it while another answers")
    # What one broker had, two have; and all that the definitions hold, though they aren't three.
    assert "note  dead letters: 1 in 'neon_echo_input.dead'" in doctor


def test_one_that_comes_late_has_all_queues_before_long(three: Cluster) -> None:
    queues = three.queues(NODES[2], "type", "messages")
    assert queues["neon_echo_input"][0] == "quorum"
    assert queues["neon_echo_input.dead"] == ["quorum", "1"]
    assert three.are_three()


def test_the_cookie_is_this_copys_own_and_nobody_elses_to_read(three: Cluster) -> None:
    cookie = three.project.read("rabbitmq/erlang.cookie")
    assert len(cookie) == 64
    for node in NODES:
        kept = "/var/lib/rabbitmq/.erlang.cookie"
        assert three.on(node, "cat", kept) == cookie
        assert three.on(node, "stat", "--format=%a %U", kept).split() == ["600", "rabbitmq"]


def test_clients_that_know_one_name_have_all_three_behind_it(three: Cluster) -> None:
    ask = "import socket; print({each[4][0] for each in socket.getaddrinfo('neon-rabbitmq', 5672)})"
    assert len(eval(three.inside("python", "-c", ask).stdout)) == 3


def test_a_queue_of_no_type_is_on_three_nodes_if_it_is_durable_and_transient_as_ever_if_not(
    three: Cluster,
) -> None:
    peer = Peer(three.parameters(NODES[1]))
    durable, transient = (
        peer.declare(f"neon_echo.reply.{uuid.uuid4().hex}", durable=each) for each in (True, False)
    )
    queues = three.queues(NODES[0], "type", "members")
    assert queues[durable][0] == "quorum" and queues[durable][1].count("@") == 3
    assert queues[transient][0] == "classic"
    for each in (durable, transient):
        peer.channel.queue_delete(each)
    peer.close()


@pytest.mark.parametrize("victim", NODES)
def test_killing_any_of_the_three_under_load_loses_nothing(three: Cluster, victim: str) -> None:
    def connected() -> int:
        """How often the service has begun to consume."""
        return three.compose("logs", "service").stdout.count("consuming 'neon_echo_input'")

    others = [node for node in NODES if node != victim]
    [leader] = three.queues(others[0], "leader")["neon_echo_input"]
    before = connected()
    try:
        with Load(three, others) as load:
            load.pile_up()
            began = time.monotonic()
            three.kill(victim)
            took, all_took = load.recovered_after(began), load.caught_up_after(began)
        moved = connected() > before
    finally:  # the next one's death is to be told by itself
        three.bring_back(victim)
    print(
        f"\n{victim} killed: answered again after {took:.2f} s, all of before after {all_took:.2f} s; it led the queue: "
        f"{leader.endswith('@' + victim)}, the service was connected to it: {moved}; {load.figures}"
    )
    assert not load.lost
    assert took < BOUND
    # What the service had in hand is another's before long, too.
    assert all_took < BOUND


def test_a_rolling_restart_as_the_page_has_it_loses_nothing(three: Cluster) -> None:
    [loop] = shell_blocks(section(PAGE, "Node by node"))
    with Load(three, NODES, piles_up=True) as load:
        type_in(loop, three.project.path, {"COMPOSE_PROJECT_NAME": three.name})
    print(f"\nall three replaced, one by one: {load.figures}")
    assert not load.lost


def test_replicas_share_the_requests(three: Cluster) -> None:
    [scale] = shell_blocks(section(PAGE, "Replicas"))
    try:
        type_in(scale, three.project.path, {"COMPOSE_PROJECT_NAME": three.name})
        consumers = partial(three.queues, NODES[1], "consumers")
        eventually(lambda: consumers()["neon_echo_input"] == ["2"], 120, every=1)
        with Load(three, NODES) as load:
            pass
        assert not load.lost
    finally:
        three.compose("up", "--detach", "--wait", "--no-deps", "service")


def test_three_that_are_all_new_do_not_wait_for_each_other(three: Cluster) -> None:
    three.compose("down", "--volumes")
    three.compose("up", "--detach", "--wait", "--no-deps", *NODES)
    for node in NODES:
        running = three.on(node, "rabbitmqctl", "-q", "eval", "rabbit_nodes:list_running().")
        assert running.count("rabbit@") == 3, node
    first, *others = NODES
    up = logged(three, first, "started TCP listener")
    assert all(logged(three, node, "Starting RabbitMQ") < up for node in others)


def logged(cluster: Cluster, node: str, words: str) -> str:
    """When a broker has said something, as it writes the time."""
    said = docker("logs", f"{cluster.name}-{node}-1")
    found = re.search(rf"(\d{{4}}-\S+ \S+) \[\w+\].* {words}", said)
    assert found, said
    return found[1]
