"""Metrics of a generated service, scraped by a real Prometheus beside its real broker: alerts and dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import brokers
import pytest
import yaml
from baked import BakedProject
from running import Service, free_port, running
from waiting import eventually

DASHBOARD = "observability/grafana/dashboard.json"
Test = TypeVar("Test", bound=Callable[..., None])
#: Seconds that a Prometheus which asks each second gets to notice; this machine may be busy.
NOTICED = 120

#: The handler, as these tests need it.
ANSWER = """        if "fail" in request:
            raise ValueError("asked to fail")
        time.sleep(request.get("sleep", 0))
        return {"echo": request}
"""


def need(*programs: str) -> None:
    for each in programs:
        if shutil.which(each) is None:
            pytest.skip(f"no {each} on this machine: apt-get install prometheus")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# ---- the real thing


@dataclass
class Observed:
    """A service, its broker, and a Prometheus that asks both each second."""

    project: BakedProject
    broker: Any
    service: Service
    metrics_port: int
    prometheus: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression of PromQL finds now."""
        question = urllib.parse.urlencode({"query": expression})
        status, text = get(f"{self.prometheus}/api/v1/query?{question}")
        assert status == 200, f"{expression}: {text}"
        result: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return result

    def firing(self) -> set[str]:
        """The names of the alerts in force."""
        alerts = json.loads(get(f"{self.prometheus}/api/v1/alerts")[1])["data"]["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def fires(self, *names: str) -> None:
        eventually(
            lambda: self.firing() >= set(names),
            NOTICED,
            lambda: f"{names} fire; it is {self.firing()}",
            every=0.25,
        )

    def ends(self, *names: str) -> None:
        eventually(
            lambda: not self.firing() & set(names),
            NOTICED,
            lambda: f"{names} end; it is {self.firing()}",
            every=0.25,
        )

    def send(self, times: int = 1, **request: Any) -> None:
        """Requests that nobody waits for."""
        code = (
            "import sys, json\n"
            "from neon_echo.service import NeonEchoService as S, INPUT_QUEUE\n"
            "from neon_echo.mq_connector import Connection, Publisher, Request\n"
            "from neon_echo.mq_connector.payload import encode\n"
            "with Publisher(Connection(S().address())) as publisher:\n"
            "    for _ in range(int(sys.argv[2])):\n"
            "        publisher.publish('', INPUT_QUEUE, encode(json.loads(sys.argv[1]))).result(30)\n"
        )
        env = {"MQ_PORT": str(self.service.port)}
        self.project.run("python", "-c", code, json.dumps(request), str(times), env=env)

    def start_again(self) -> None:
        self.service.stop()
        self.service.launch()
        self.service.wait_until_healthy()


def quick(project: BakedProject, folder: Path, service: int, broker: int) -> Path:
    """The project's own configuration, for here and in a hurry: seconds in the place of minutes."""
    config = yaml.safe_load(project.read("observability/prometheus.yml"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        port = service if job["job_name"] == "service" else broker
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = project.read("observability/alerts.yml")
    rules = re.sub(r"for: \d+m", "for: 0s", rules).replace("[5m]", "[10s]")
    (folder / "alerts.yml").write_text(rules)
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def observed(
    default_project: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    need("prometheus")
    folder = tmp_path_factory.mktemp("observed")
    path = shutil.copytree(default_project.path, folder / "neon-echo", symlinks=True)
    project = BakedProject(Path(path), default_project.answers)
    handler = project.package / "service.py"
    code = handler.read_text("utf-8").replace('        return {"echo": request}\n', ANSWER)
    handler.write_text(code.replace("from collections.abc", "import time\nfrom collections.abc", 1))
    metrics_port, port = free_port(), free_port()
    with ExitStack() as stack:
        broker = stack.enter_context(brokers.installed_node(project, metrics=True))
        config = quick(project, folder, metrics_port, broker.metrics_port)
        words = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        settings = {"MQ_METRICS_PORT": str(metrics_port), "MQ_PREFETCH": "1"}
        service = stack.enter_context(running(project, broker.port, folder / "home", **settings))
        found = Observed(project, broker, service, metrics_port, f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            try:
                return get(f"{found.prometheus}/-/ready")[0] == 200
            except OSError:
                return False

        eventually(is_ready, NOTICED, "Prometheus is ready", every=0.1)
        yield found


def real(test: Test) -> Test:
    """Mark a test that needs them."""
    marks = (pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600))
    for mark in marks:
        test = mark(test)
    return test


@real
def test_a_healthy_service_alerts_nobody_and_every_query_of_the_dashboard_has_an_answer(
    observed: Observed,
) -> None:
    dashboard = json.loads(observed.project.read(DASHBOARD))
    queries = {
        target["expr"]: panel["title"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    assert len(queries) > 20

    def silent() -> dict[str, str]:
        observed.send(2)
        return {
            expression: panel
            for expression, panel in queries.items()
            if not observed.query(expression.replace("$__rate_interval", "20s"))
        }

    eventually(lambda: not silent(), NOTICED, lambda: f"all answer, but {silent()}", every=0.5)
    observed.ends("NoService", "NoConsumer", "ConsumerDown")  # as before the first scrape
    assert observed.firing() == set()


@real
def test_the_targets_are_up_and_tell_of_the_service(observed: Observed) -> None:
    def jobs() -> set[str]:
        return {each["metric"]["job"] for each in observed.query("up == 1")}

    eventually(lambda: jobs() == {"service", "rabbitmq", "queues"}, NOTICED, every=0.25)
    assert get(f"http://127.0.0.1:{observed.metrics_port}/healthz") == (200, "alive\n")
    assert get(f"http://127.0.0.1:{observed.metrics_port}/readyz") == (200, "consuming\n")
    [build] = observed.query("mq_build_info")
    assert build["metric"]["version"] == "0.1.0"


@real
def test_failures_alert_and_end_when_the_letters_are_gone(observed: Observed) -> None:
    observed.send(5, fail=True)
    observed.fires("DeadLetters", "ErrorRate")
    observed.service.command("dead", "--purge", "--yes")
    observed.ends("DeadLetters", "ErrorRate")


@real
def test_a_backlog_alerts(observed: Observed) -> None:
    observed.send(100, sleep=1)
    observed.fires("BacklogAge")
    # It isn't waited for: what is left is removed with its queue's messages.
    observed.service.stop()
    observed.broker.ctl("purge_queue", "-p", observed.project.answers["vhost"], "neon_echo_input")
    observed.service.launch()
    observed.service.wait_until_healthy()
    observed.ends("BacklogAge")


@real
def test_an_alarm_alerts(observed: Observed) -> None:
    observed.broker.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        observed.fires("BrokerAlarm")
    finally:
        observed.broker.ctl("set_vm_memory_high_watermark", "0.9")
    observed.ends("BrokerAlarm")


@real
def test_a_service_that_is_gone_alerts(observed: Observed) -> None:
    observed.service.stop()
    try:
        observed.fires("NoService", "NoConsumer")
    finally:
        observed.service.launch()
        observed.service.wait_until_healthy()
    observed.ends("NoService", "NoConsumer")


@real
def test_a_broker_that_is_gone_alerts(observed: Observed) -> None:
    observed.broker.stop()
    try:
        observed.fires("BrokerDown", "ConsumerDown")
        assert get(f"http://127.0.0.1:{observed.metrics_port}/healthz")[0] == 200
        assert get(f"http://127.0.0.1:{observed.metrics_port}/readyz")[0] == 503
    finally:
        observed.broker.start()
    observed.ends("BrokerDown", "ConsumerDown")


@real
def test_a_service_that_is_started_again_and_again_alerts(observed: Observed) -> None:
    started = "process_start_time_seconds{job='service'}"
    for _ in range(3):
        [before] = observed.query(f"last_over_time({started}[1h])")
        observed.start_again()
        eventually(
            lambda: [
                each
                for each in observed.query(started)
                if each["value"][1] != before["value"][1]  # noqa: B023
            ],
            NOTICED,
            "the new process is scraped",
            every=0.25,
        )
    observed.fires("Restarts")


@real
def test_each_alert_was_seen(observed: Observed) -> None:
    """By the tests above."""
    text = Path(__file__).read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", observed.project.read("observability/alerts.yml"))
    seen = {
        name for call in re.findall(r"\.fires\((.+)\)", text) for name in re.findall(r"\w+", call)
    }
    assert not set(alerts) - seen


@real
def test_two_processes_each_need_a_port_of_their_own(observed: Observed, tmp_path: Path) -> None:
    settings = {"MQ_METRICS_PORT": str(observed.metrics_port)}
    second = Service(observed.project, observed.service.port, tmp_path, **settings)
    done = second.command("run")
    assert done.returncode == 1
    assert f"port {observed.metrics_port} is taken" in done.stderr
    other = str(free_port())
    with running(observed.project, observed.service.port, tmp_path / "home", MQ_METRICS_PORT=other):
        assert get(f"http://127.0.0.1:{other}/readyz") == (200, "consuming\n")
