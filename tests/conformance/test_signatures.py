"""Every public name of the checklist takes what the incumbent's takes, by position and by keyword."""

from __future__ import annotations

import inspect
import json
import subprocess
from typing import Any

import pytest
from baked import CONNECTOR, outside

from .conftest import python
from .lab import PACKAGES

#: By module. `run`, `sync` and `create_mq_connection` hide theirs behind a decorator of the incumbent's;
#: scenarios call them.
NAMES = {
    "connector": (
        "MQConnector",
        "MQConnector.register_consumer",
        "MQConnector.register_subscriber",
        "MQConnector.send_message",
        "MQConnector.emit_mq_message",
        "MQConnector.publish_message",
        "MQConnector.pre_run",
        "MQConnector.post_run",
        "MQConnector.run_consumers",
        "MQConnector.stop_consumers",
        "MQConnector.restart_consumer",
        "MQConnector.observe_consumers",
        "MQConnector.stop",
        "MQConnector.check_health",
        "MQConnector.get_connection_params",
        "MQConnector.create_unique_id",
    ),
    "consumers": ("BlockingConsumerThread", "SelectConsumerThread"),
    "utils.client_utils": ("send_mq_request", "NeonMQHandler"),
    "utils.rabbit_utils": ("create_mq_callback",),
    "utils.network_utils": ("dict_to_b64", "b64_to_dict", "check_port_is_open"),
    "utils.connection_utils": (
        "get_timeout",
        "retry",
        "wait_for_mq_startup",
        "check_rmq_is_available",
    ),
    "utils.consumer_utils": ("default_error_handler",),
    "utils.thread_utils": ("RepeatingTimer",),
}
PROGRAM = """
import inspect, json, logging, sys
from importlib import import_module
sys.path[:0] = sys.argv[3:]
logging.disable(logging.CRITICAL)
found = {}
for module, names in json.loads(sys.argv[2]).items():
    for name in names:
        value = import_module(f"{sys.argv[1]}.{module}")
        for part in name.split("."):
            value = getattr(value, part)
        found[f"{module}.{name}"] = [
            (each.name, int(each.kind), repr(each.default) if each.default is not each.empty else None)
            for each in inspect.signature(value).parameters.values()
        ]
print("RESULT" + json.dumps(found))
"""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@pytest.fixture(scope="module")
def signatures() -> dict[str, dict[str, list[Any]]]:
    """By implementation and name: each parameter's name, kind and default."""
    found = {}
    for kind, package in PACKAGES.items():
        words = [package, json.dumps(NAMES), str(CONNECTOR.parent)]
        done = subprocess.run(
            [python(kind), "-B", "-c", PROGRAM, *words],
            env=outside(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found[kind] = json.loads(done.stdout.rpartition("RESULT")[2])
    return found


@pytest.mark.parametrize(
    "name", [f"{module}.{name}" for module, names in NAMES.items() for name in names]
)
def test_a_call_of_the_incumbents_is_a_call_of_ours(
    signatures: dict[str, dict[str, list[Any]]], name: str
) -> None:
    theirs, ours = signatures["incumbent"][name], signatures["ours"][name]
    known = {parameter: (kind, default) for parameter, kind, default in ours}
    by_position = [parameter for parameter, kind, _ in ours if kind in _POSITIONAL]
    collects = {kind for _, kind, _ in ours if kind in _COLLECTING}
    for position, (parameter, kind, default) in enumerate(theirs):
        if kind in _COLLECTING:
            assert kind in collects, f"no {parameter}"
            continue
        assert parameter in known, f"no {parameter}"
        assert (known[parameter][1] is None) <= (default is None), f"{parameter} has no default"
        if kind in _POSITIONAL:
            assert by_position[position] == parameter
    extra = [parameter for parameter, _, _ in ours[len(theirs) :]]
    needed = [parameter for parameter in extra if known[parameter] == (1, None)]
    assert not needed, f"{needed} would have to be given"
