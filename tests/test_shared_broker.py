"""Two generated services at the broker of one of them, as docs/calling.md of the generated repository says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from baked import BakedProject, bake_into
from pages import section, shell_blocks, type_in
from provisioning import provision
from running import free_port
from test_containers import docker, lacking

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(600)]

#: What docs/calling.md calls the other one's containers.
PRINTED = "forecast-4c72e2"
ASKS = """
    calls = (("forecast_input", "/shared"),)
    publishes = (("weather", "topic"),)

    def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
        self.publish("weather", "north.storm", {"wind": request["wind"]})
        return {"forecast": self.ask("forecast_input", {}, timeout=20)}

"""
HEARS = """
        self.consumers["weather"] = ConsumerThread(
            connection=self.create_mq_connection(),
            exchange="weather",
            routing_keys=["*.storm"],
            callback_func=self.on_event,
        )
        self.heard = threading.Event()

    def on_event(
        self, channel: Channel, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self.wind = Request.decode(body).data["wind"]
        self.heard.set()

    def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
        self.heard.wait(10)
        return {"wind": self.wind}

"""


def edited(project: BakedProject, text: str) -> None:
    """Put methods in place of the generated `answer`."""
    source = project.package / "service.py"
    before, _, rest = source.read_text().partition("    def answer(")
    _, _, after = rest.partition("    def handle_api_input(")
    imports = before.replace("from collections.abc", "import threading\nfrom collections.abc", 1)
    source.write_text(f"{imports.rstrip()}\n{text}    def handle_api_input({after}")


def compose(project: BakedProject, *words: str) -> str:
    return type_in(f"docker compose {' '.join(words)}", project.path)


def named(project: BakedProject, variable: str) -> str:
    lines = project.read(".env").splitlines()
    return [each.partition("=")[2] for each in lines if each.startswith(f"{variable}=")][-1]


@pytest.fixture
def services() -> Iterator[tuple[BakedProject, BakedProject]]:
    """The one that asks, and the one that has the broker; each with an image of its own."""
    if reason := lacking():
        pytest.skip(reason)
    # Not below pytest's own folder, which the containers' users may not enter.
    with tempfile.TemporaryDirectory(prefix="neon-mq-") as folder:
        Path(folder).chmod(0o755)
        made = []
        for name, text in (("Asker", ASKS), ("Forecast", HEARS)):
            one = bake_into(Path(folder), {"service_name": name, "vhost": "/shared"})
            edited(one, text)
            with (one / ".env").open("a") as file:
                ports = ("MQ_PORT", "MQ_MANAGEMENT_PORT", "MQ_BROKER_METRICS_PORT")
                file.writelines(f"{each}={free_port()}\n" for each in ports)
                # Nobody else's copy has its containers' name, which is made of the folder's.
                file.write(f"IMAGE={named(one, 'COMPOSE_PROJECT_NAME')}\n")
            provision(one)
            made.append(one)
        asker, forecast = made
        try:
            yield asker, forecast
        finally:
            for each in made:
                compose(
                    each,
                    "down",
                    "--volumes",
                    "--remove-orphans",
                    "--rmi",
                    "local",
                    "--timeout",
                    "5",
                )


def test_a_service_asks_and_tells_one_whose_broker_it_shares(
    services: tuple[BakedProject, BakedProject],
) -> None:
    asker, forecast = services
    compose(forecast, "up", "--build", "--detach", "--wait")
    page = section(asker.read("docs/calling.md"), "Share a broker")
    assert PRINTED in page
    page = page.replace(PRINTED, named(forecast, "COMPOSE_PROJECT_NAME"))
    [override] = shell_blocks(page, "yaml")
    (asker / "compose.override.yaml").write_text(override)
    [block] = shell_blocks(page)
    type_in(block, asker.path)
    request = f"exec -T service python -m asker request '{json.dumps({'wind': 30})}'"
    reply = json.loads(compose(asker, request))
    assert reply["forecast"]["wind"] == 30
    listed = docker("ps", "--format", "{{.Names}}").splitlines()
    ours = [each for each in listed if each.startswith(named(asker, "COMPOSE_PROJECT_NAME"))]
    assert ours == [f"{named(asker, 'COMPOSE_PROJECT_NAME')}-service-1"]
