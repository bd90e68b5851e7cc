"""Metrics of a generated service, scraped by a real Prometheus beside its real broker: alerts and dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import textwrap
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
from baked import TREE, BakedProject
from pages import section, shell_blocks
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


# ---- the files


def test_promtool_takes_configuration_and_rules(project: BakedProject) -> None:
    need("promtool")
    folder = project / "observability"
    done = subprocess.run(
        ["promtool", "check", "config", folder / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: \d+ rules found", done.stdout), done.stdout


def test_every_metric_that_is_asked_for_is_one_that_somebody_tells(project: BakedProject) -> None:
    collector = (project.package / "mq_connector/metrics/collector.py").read_text("utf-8")
    told = set(re.findall(r'"(mq_[a-z_]+)"', collector))
    told |= {f"mq_messages_{each}" for each in re.findall(r'^    "([a-z_]+)": "M', collector, re.M)}
    asked = project.read(DASHBOARD) + project.read("observability/alerts.yml")
    named = set(re.findall(r"\bmq_[a-z_]+", asked))
    assert named
    assert not {re.sub("_(total|bucket|info)$", "", each) for each in named} - told


def test_every_alert_is_explained(project: BakedProject) -> None:
    page = project.read("docs/observability.md")
    alerts = re.findall(r"- alert: (\w+)", project.read("observability/alerts.yml"))
    assert len(alerts) > 5
    assert [each for each in alerts if f"`{each}`" not in page] == []


def test_every_metric_is_explained(project: BakedProject) -> None:
    page = project.read("docs/observability.md")
    asked = project.read(DASHBOARD) + project.read("observability/alerts.yml")
    named = set(re.findall(r"\bmq_[a-z_]+", asked))
    base = {re.sub("_bucket$", "", each) for each in named}
    assert sorted(each for each in base if f"`{each}`" not in page) == []


def test_compose_starts_them_on_request_only_and_for_this_machine_only() -> None:
    compose = yaml.safe_load((TREE / "compose.yaml").read_text(encoding="utf-8").replace("<<", ""))
    services = compose["services"]
    assert {name for name, each in services.items() if "profiles" not in each} == {
        "rabbitmq",
        "service",
    }
    assert "ports" not in services["service"], "each replica has its own, so none is the host's"
    for name in ("prometheus", "grafana"):
        each = services[name]
        assert each["profiles"] == ["observability"]
        assert all(port.startswith("127.0.0.1:") for port in each["ports"])
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert ":latest" not in each["image"] and ":" in each["image"]
        for volume in each["volumes"]:
            if volume["type"] == "bind":
                assert (TREE / volume["source"]).is_file()


def test_compose_takes_the_profile(project: BakedProject) -> None:
    if not shutil.which("docker"):
        pytest.skip("no docker command on this machine")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("`docker compose version` fails on this machine")

    def config(**env: str) -> dict[str, Any]:
        words = ["docker", "compose", "--profile", "observability", "config", "--format", "json"]
        found: dict[str, Any] = json.loads(project.run(*words, env=env).stdout)["services"]
        return found

    without, on = config()["service"], config(MQ_METRICS_PORT="1")["service"]
    assert not without["environment"].get("MQ_METRICS_PORT")
    assert on["environment"]["MQ_METRICS_PORT"] == "9464"
    assert (without["build"]["args"]["METRICS"], on["build"]["args"]["METRICS"]) == ("", "1")


def test_the_image_with_metrics_pins_the_same_versions(project: BakedProject) -> None:
    def pins(name: str) -> dict[str, str]:
        lines = re.findall(r"^([\w-]+)==(\S+)", project.read(name), re.MULTILINE)
        return dict(lines)

    plain, more = pins("requirements.txt"), pins("requirements-observability.txt")
    assert plain.items() <= more.items()
    assert {"prometheus-client", "rich"} <= more.keys()
    hashes = re.findall(
        "--hash=sha256:[0-9a-f]{64}", project.read("requirements-observability.txt")
    )
    assert len(hashes) >= 2 * len(more)


@pytest.mark.broker
@pytest.mark.slow
def test_the_page_s_provider_gets_the_spans(default_project: BakedProject, tmp_path: Path) -> None:
    """As printed, but for the exporter, which wants somebody at the other end."""
    path = shutil.copytree(default_project.path, tmp_path / "neon-echo", symlinks=True)
    project = BakedProject(Path(path), default_project.answers)
    [block] = shell_blocks(section(project.read("docs/observability.md"), "Traces"), "python")
    imports, code = block.split("\n\n", 1)
    imports = re.sub(r".*\bOTLPSpanExporter\n", "", imports)
    exporter = "opentelemetry.sdk.trace.export import BatchSpanProcessor"
    imports = imports.replace(exporter, f"{exporter}, ConsoleSpanExporter")
    handler = project.package / "service.py"
    before, answer, after = handler.read_text("utf-8").partition("    def answer(")
    console = "ConsoleSpanExporter(out=open('spans', 'w'))"
    methods = textwrap.indent(code.replace("OTLPSpanExporter()", console), "    ")
    before = before.replace("from collections.abc", f"{imports}\nfrom collections.abc", 1)
    handler.write_text(f"{before}{methods}\n{answer}{after}", "utf-8")
    with brokers.installed_node(project) as broker:
        home = tmp_path / "home"
        with running(
            project, broker.port, home, MQ_TRACING="1", OTEL_SERVICE_NAME="of the test"
        ) as service:
            assert service.ask({"text": "hi"})["echo"]["text"] == "hi"
            service.stop()
            said = project.read("spans")
    assert '"name": "process neon_echo_input"' in said
    assert '"service.name": "of the test"' in said


# ---- what can't be


def refused(project: BakedProject, home: Path, **settings: str) -> str:
    """What a service says that doesn't start."""
    done = Service(project, free_port(), home, **settings).command("run")
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(said) == 1, done.stderr
    return said[0]


def test_a_port_that_is_taken_is_named_in_one_line(project: BakedProject, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(project, tmp_path / "home", MQ_METRICS_PORT=str(port))
    assert f"port {port} is taken" in said


@pytest.mark.parametrize(
    ("extra", "module", "setting"),
    [
        ("metrics", "prometheus_client", "MQ_METRICS_PORT"),
        ("tracing", "opentelemetry", "MQ_TRACING"),
    ],
)
def test_an_extra_that_is_missing_is_named_in_one_line(
    project: BakedProject, tmp_path: Path, extra: str, module: str, setting: str
) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / f"{module}.py").write_text(
        f"raise ModuleNotFoundError('No module named it', name={module!r})\n"
    )
    value = str(free_port()) if extra == "metrics" else "1"
    path = f"{missing}{os.pathsep}{project.path / 'src'}"
    said = refused(project, tmp_path / "home", **{setting: value, "PYTHONPATH": path})
    assert f"pip install --editable '.[{extra}]'" in said


def test_what_switches_spans_neither_on_nor_off_is_named_in_one_line(
    project: BakedProject, tmp_path: Path
) -> None:
    assert "MQ_TRACING is 'loud'" in refused(project, tmp_path / "home", MQ_TRACING="loud")


def test_what_is_no_port_is_named_in_one_line(project: BakedProject, tmp_path: Path) -> None:
    said = refused(project, tmp_path / "home", MQ_METRICS_PORT="http")
    assert "MQ_METRICS_PORT" in said


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
