"""What metrics need in a generated repository: files, pages, the image, and what is refused in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import brokers
import pytest
import yaml
from baked import TREE, BakedProject
from pages import section, shell_blocks
from running import Service, free_port, running
from test_observability import DASHBOARD, need

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
