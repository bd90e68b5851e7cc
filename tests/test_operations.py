"""The page on operations: each of its steps is pasted as it is printed, and says what the page says, under load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from operating import Load, Step, log_entries, paste, steps
from pages import shell_blocks, type_in
from running import Service, free_port
from test_containers import docker, lacking
from waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = "docs/operations.md"
OLD, NEW = "rabbitmq:4.0-management", "rabbitmq:4.3-management"
INPUT, DEAD = "neon_echo_input", "neon_echo_input.dead"
#: Sections whose blocks are run, each by a test below.
SECTIONS = (
    "Find out what is wrong",
    "Back up",
    "Restore",
    "Upgrade the broker",
    "There is no way back",
    "Take a release back",
    "Scale it",
    "Poison requests",
    "Alarms of memory and disk",
)


@dataclass(frozen=True)
class Desk:
    """A generated repository whose containers run, and a shell in its folder."""

    project: BakedProject
    #: What the shell has in its environment: a compose project and ports of its own.
    variables: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.variables["MQ_PORT"])

    def steps(self, title: str) -> list[Step]:
        return steps(self.project.read(PAGE), title)

    def run(self, step: Step, but: tuple[str, str] = (" ", " ")) -> str:
        """Type a step in as it is printed, and see that it says what the page says.

        :param but: a word that has to be another one here
        """
        step.script, step.says = step.script.replace(*but), step.says.replace(*but)
        seen = type_in(step.script, self.project.path, self.variables)
        step.check(seen)
        return seen

    def shell(self, script: str) -> str:
        return type_in(script, self.project.path, self.variables)

    def ctl(self, *words: str) -> str:
        return self.shell(f"docker compose exec -T rabbitmq rabbitmqctl -q {' '.join(words)}")

    def set_broker(self, image: str) -> None:
        compose = self.project / "compose.yaml"
        text, count = re.subn(r"image: rabbitmq:\S+", f"image: {image}", compose.read_text("utf-8"))
        assert count == 1
        compose.write_text(text, "utf-8")

    def log(self, service: str) -> str:
        return self.shell(f"docker compose logs --no-log-prefix --no-color {service}")

    @contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """A channel of the service's own user, from this machine."""
        home = self.project.path.parent / "home"
        with Service(self.project, self.port, home).channel() as channel:
            channel.confirm_delivery()
            yield channel

    def poison(self, count: int) -> None:
        """Have so many more dead letters, of requests that can't be read."""
        expected = self.letters() + count
        with self.channel() as channel:
            for number in range(count):
                properties = pika.BasicProperties(delivery_mode=2, message_id=f"poison-{number}")
                channel.basic_publish("", INPUT, b"\xff", properties)
        eventually(lambda: self.letters() == expected, what="the letters are there", every=0.2)

    def letters(self) -> int:
        """How many dead letters there are."""
        with self.channel() as channel:
            count: int = channel.queue_declare(DEAD, passive=True).method.message_count
            return count

    def doctor(self) -> str:
        return self.shell("docker compose exec -T service python -m neon_echo doctor || true")

    def handled(self) -> set[str]:
        """Ids of the requests that were handled, as the service's log has them."""
        entries = log_entries(self.log("service"))
        return {each["message_id"] for each in entries if each.get("outcome") == "handled"}

    def caught_up(self, load: Load) -> None:
        """Wait until each request that was confirmed is answered, or the service says that it was handled."""

        def missing() -> set[str]:
            waiting = {*load.confirmed} - load.answered
            return waiting and waiting - self.handled()

        eventually(lambda: not missing(), 60, lambda: f"not handled: {sorted(missing())}", every=1)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """With the older broker."""
    if reason := lacking():
        pytest.skip(reason)
    for image in (OLD, NEW):
        brokers.need_image(image)
    project = bake_into(tmp_path_factory.mktemp("operations"))
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    variables = {
        "COMPOSE_PROJECT_NAME": name,
        "IMAGE": name,  # beside those of other tests
        "MQ_PORT": str(free_port()),
        "MQ_MANAGEMENT_PORT": str(free_port()),
        "MQ_BROKER_METRICS_PORT": str(free_port()),
        # What was handled is counted from the log.
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    desk = Desk(project, variables)
    desk.set_broker(OLD)
    try:
        desk.shell("docker compose up --build --detach --wait")
        yield desk
    finally:
        down = ["docker", "compose", "--project-name", name, "down", "--volumes", "--rmi", "local"]
        subprocess.run(down, capture_output=True, timeout=120)
        for tag in ("latest", "1.0.0", "1.1.0"):
            docker("image", "rm", "--force", f"{name}:{tag}", check=False)


Report = Callable[[str, Load], None]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    """Print a line for the page's table; seen with `pytest -s`."""

    def line(what: str, load: Load) -> None:
        sent, answered = len(load.confirmed), len({*load.confirmed} & load.answered)
        with capfd.disabled():
            waited = f"{load.confirms.longest:.1f} | {load.replies.longest:.1f}"
            print(f"\n| {what} | {waited} | {sent} | {answered} | {sent - answered} | 0 |")

    return line


def test_each_section_with_a_block_has_its_test(default_project: BakedProject) -> None:
    page = default_project.read(PAGE)
    counted = sum(len([each for each in steps(page, title) if each.script]) for title in SECTIONS)
    assert counted == len(shell_blocks(page))


def test_the_first_look_shows_that_all_is_well(desk: Desk) -> None:
    look, apart = desk.steps("Find out what is wrong")
    assert desk.run(look).count("(healthy)") == 2
    desk.run(apart)


def test_more_replicas_share_the_queue(desk: Desk) -> None:
    [more] = desk.steps("Scale it")
    try:
        desk.run(more)
    finally:
        desk.shell("docker compose up --detach --wait")
    assert "1 consumer\n" in desk.doctor()


def test_poison_requests_are_looked_at_kept_put_back_and_removed(desk: Desk) -> None:
    look, keep, back, remove = desk.steps("Poison requests")
    desk.poison(3)
    desk.run(look)
    desk.run(keep)
    kept = desk.project / "backup" / "dead.jsonl"
    assert kept.read_text("utf-8").count('"body": "/w=="') == 3
    assert kept.parent.stat().st_mode & 0o077 == 0
    # Nothing has been mended, so they die again.
    seen = paste(back.script, desk.project.path, desk.variables).stdout
    assert re.search("stopped: dead letters have come|3 dead letters of .* put back", seen), seen
    eventually(lambda: desk.letters() == 3, what="they have died again", every=0.2)
    unasked = paste(remove.script.replace(" --yes", ""), desk.project.path, desk.variables)
    assert unasked.returncode and "add --yes" in unasked.stdout
    assert desk.letters() == 3
    desk.run(remove)
    assert desk.letters() == 0


def test_during_an_alarm_all_waits_and_is_handled_afterwards(desk: Desk) -> None:
    told, look, more = desk.steps("Alarms of memory and disk")
    desk.shell("docker compose stop service")
    with Load(desk.project, desk.port) as load:
        eventually(lambda: len(load.confirmed) >= 20, what="there is a backlog")
    try:
        desk.ctl("set_vm_memory_high_watermark absolute 10MiB")
        desk.shell("docker compose start service")
        eventually(lambda: "; what is sent waits" in desk.log("service"), every=0.5)
        told.check("\n".join(each["message"] for each in log_entries(desk.log("service"))))
        assert "FAIL  the broker takes no messages: low on memory" in desk.doctor()
        desk.run(look)
        assert {*load.confirmed} - desk.handled()
    finally:
        desk.run(more)
    desk.caught_up(load)
    try:
        desk.ctl("set_disk_free_limit 100000GB")
        eventually(lambda: "FAIL  the broker takes no messages: low on disk" in desk.doctor())
    finally:
        desk.ctl("set_disk_free_limit 50MB")
    eventually(lambda: "FAIL" not in desk.doctor(), what="the alarm ends by itself")


def test_a_backlog_that_nobody_waits_for_is_removed(desk: Desk) -> None:
    [purge] = re.findall(
        "`(docker compose exec rabbitmq rabbitmqctl purge.*)`", desk.project.read(PAGE)
    )
    desk.shell("docker compose stop service")
    try:
        with Load(desk.project, desk.port) as load:
            eventually(lambda: len(load.confirmed) >= 20, what="there is a backlog")
        desk.shell(purge)
        assert f"{INPUT}', quorum, 0 ready" in desk.shell(
            "docker compose run --rm --no-deps -T service python -m neon_echo doctor || true"
        )
    finally:
        desk.shell("docker compose start service")


def test_a_release_is_taken_back_and_no_request_is_lost(desk: Desk, report: Report) -> None:
    release, back = desk.steps("Take a release back")
    service = desk.project.package / "service.py"
    before = service.read_text("utf-8")
    ask = 'docker compose exec -T service python -m neon_echo request \'{"text": "hi"}\''
    desk.shell("TAG=1.0.0 docker compose build service")
    try:
        with Load(desk.project, desk.port) as load:
            service.write_text(before.replace('{"echo": request}', '{"edited": request}'), "utf-8")
            desk.run(release, ("neon-echo", desk.variables["IMAGE"]))
            assert '"edited"' in desk.shell(ask)
            desk.run(back, ("neon-echo", desk.variables["IMAGE"]))
            assert '"echo"' in desk.shell(ask)
            gone = back.script.replace("1.0.0", "0.0.1")
            assert paste(gone, desk.project.path, desk.variables).returncode
            assert '"echo"' in desk.shell(ask)
        desk.caught_up(load)
        report("a release, and back to the one before", load)
    finally:
        service.write_text(before, "utf-8")


def test_definitions_made_by_hand_come_back_from_a_backup(desk: Desk) -> None:
    save, _ = desk.steps("Back up")
    files, _, import_ = desk.steps("Restore")
    desk.ctl("add_user maria secret")
    desk.run(save)
    desk.ctl("delete_user maria")
    desk.run(import_)
    eventually(lambda: "maria" in desk.ctl("list_users"), every=0.5)
    config = desk.project.read("mq_config.json")
    (desk.project / "mq_config.json").unlink()
    desk.run(files)
    assert desk.project.read("mq_config.json") == config
    desk.shell("git init --quiet")
    assert desk.shell("git status --short --ignored backup").split() == ["!!", "backup/"]


def test_an_upgrade_loses_nothing_and_only_a_backup_leads_back(desk: Desk, report: Report) -> None:
    _, save = desk.steps("Back up")
    _, restore, _ = desk.steps("Restore")
    flags, upgrade, flags_again = desk.steps("Upgrade the broker")
    look, forward = desk.steps("There is no way back")
    compose = desk.project / "compose.yaml"
    older = compose.read_text("utf-8")
    desk.poison(2)
    with Load(desk.project, desk.port) as load:
        desk.run(save)
    desk.caught_up(load)
    report("a backup of the messages", load)
    with Load(desk.project, desk.port) as load:
        seen = desk.run(flags)
        assert re.findall(r"^(\w+)\tdisabled", seen, re.MULTILINE) == ["khepri_db"]
        desk.run(upgrade)
        desk.run(flags_again)
        assert "disabled" not in desk.ctl("list_feature_flags name state")
    desk.caught_up(load)
    report("an upgrade, 4.0.5 to 4.3.6", load)
    assert "migration from Mnesia to Khepri finished" in desk.log("rabbitmq")
    desk.poison(1)

    compose.write_text(older, "utf-8")
    desk.shell("docker compose up --detach rabbitmq")
    eventually(lambda: "metadata store members" in desk.log("rabbitmq"), 90, every=0.5)
    stands = paste(look.script, desk.project.path, desk.variables)
    assert stands.returncode
    look.check(stands.stdout)
    desk.run(forward)
    assert desk.letters() == 3

    compose.write_text(older, "utf-8")
    archive = desk.project / "backup" / "broker.tgz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused = paste(restore.script, desk.project.path, desk.variables)
    assert refused.returncode and re.search("(?i)unexpected e", refused.stdout), refused.stdout
    assert desk.letters() == 3
    archive.write_bytes(whole)
    seen = desk.run(restore)
    assert "RabbitMQ 4.0." in seen and "dead letters: 2 in" in seen


def test_what_the_page_promises_has_to_be_said() -> None:
    step = Step("docker compose ps")
    step.says = "… 3 dead letters\n…\nname\tstate"
    step.check("there: 12 dead letters\nname  state")
    with pytest.raises(AssertionError, match="promises 'name"):
        step.check("there: 12 dead letters\nname")
    with pytest.raises(AssertionError, match="promises '… 3 dead letters'"):
        step.check("12 dead letters removed\nname state")
