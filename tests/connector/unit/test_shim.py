"""The top-level package `neon_mq_connector` that hands on the repository's own connector."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baked import CONNECTOR, outside


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder like a repository's `src`, with the shim in it."""
    package = tmp_path / "neon_metrics_service"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mq_connector").symlink_to(CONNECTOR)
    shim = tmp_path / "neon_mq_connector"
    shim.mkdir()
    shutil.copy(CONNECTOR / "compat" / "shim.py", shim / "__init__.py")
    return tmp_path


def run(source: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-W", "error", "-c", program, *words]
    environment = {**outside(), "PYTHONPATH": str(source)}
    return subprocess.run(command, env=environment, cwd=source, capture_output=True, text=True)


def succeeds(source: Path, program: str) -> None:
    done = run(source, program)
    assert done.returncode == 0, done.stderr


COMPAT = "neon_metrics_service.mq_connector.compat"
MODULES = [
    ".".join(path.relative_to(CONNECTOR / "compat").with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((CONNECTOR / "compat").rglob("*.py"))
    if path != CONNECTOR / "compat" / "__init__.py"
]


#: Each module in a process of its own, which has imported nothing of the connector before.
EACH = """
import importlib, os, sys
import pika
first, second, name, *modules = sys.argv[1:]
for module in modules:
    if not os.fork():
        one = importlib.import_module(f"{first}.{module}")
        other = importlib.import_module(f"{second}.{module}")
        assert one is other, module
        assert one.__name__ == one.__spec__.name == f"{name}.{module}", module
        print(module, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow  # imports the connector for each module
@pytest.mark.parametrize("first", ["neon_mq_connector", COMPAT])
def test_every_module_is_the_repositorys_own_whoever_is_imported_first(
    source: Path, first: str
) -> None:
    second = COMPAT if first == "neon_mq_connector" else "neon_mq_connector"
    done = run(source, EACH, first, second, COMPAT, *MODULES)
    assert done.stdout.split() == MODULES, done.stderr


def test_names_are_imported_as_public_libraries_do(source: Path) -> None:
    succeeds(
        source,
        "from neon_mq_connector import MQConnector\n"
        "from neon_mq_connector.utils.client_utils import send_mq_request\n"
        "import neon_mq_connector.connector\n"
        "import neon_mq_connector.utils.client_utils\n"
        "assert neon_mq_connector.connector.MQConnector is MQConnector is neon_mq_connector.MQConnector\n"
        "neon_mq_connector.utils.client_utils._default_mq_config = 'set from outside'\n"
        f"from {COMPAT}.utils import client_utils\n"
        "assert client_utils._default_mq_config == 'set from outside'\n"
        "assert client_utils.send_mq_request is send_mq_request\n",
    )


def test_a_service_that_imports_itself_and_the_public_name_can_be_imported_by_its_library(
    source: Path,
) -> None:
    package = source / "neon_metrics_service"
    (package / "__init__.py").write_text("from neon_metrics_service.metrics import Metrics\n")
    (package / "metrics.py").write_text(
        "from neon_mq_connector.connector import MQConnector\nclass Metrics(MQConnector): pass\n"
    )
    for first in ("neon_mq_connector.connector", "neon_metrics_service"):
        succeeds(source, f"import {first}\nimport neon_metrics_service.metrics")


def test_the_public_connector_may_lie_below_it(source: Path) -> None:
    """As in an image into which pip has installed it, since a library asks for it."""
    for name in ("connector.py", "version.py"):
        (source / "neon_mq_connector" / name).write_text("raise SystemError('the public one')")
    succeeds(source, "import neon_mq_connector.connector, neon_mq_connector.utils")
    done = run(source, "import neon_mq_connector.version")
    assert f"ModuleNotFoundError: No module named '{COMPAT}.version'" in done.stderr


@pytest.mark.parametrize("number", [0, 2])
def test_it_says_what_it_needs(source: Path, number: int) -> None:
    if number:
        shutil.copytree(source / "neon_metrics_service", source / "another", symlinks=True)
    else:
        shutil.rmtree(source / "neon_metrics_service")
    done = run(source, "import neon_mq_connector")
    assert done.returncode != 0
    assert f"there are {number} such packages; there must be one" in done.stderr


def test_at_its_own_place_it_does_nothing(source: Path) -> None:
    succeeds(
        source,
        "import sys\nbefore = list(sys.meta_path)\n"
        f"import {COMPAT}.shim\nassert sys.meta_path == before",
    )
