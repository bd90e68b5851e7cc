"""Every shell block of the READMEs and the pages is run by a test, or it is named here why it can't be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from baked import TEMPLATE, TREE

PAGES = [
    *sorted(TEMPLATE.glob("*.md")),
    *sorted((TEMPLATE / "docs").glob("*.md")),
    *sorted(TREE.glob("*.md")),
    *sorted(TREE.glob("docs/*.md")),
]
#: By the page, the first line of each block and the tests that run it.
RUN = {
    "README.md": {
        "cookiecutter gh:org/neon-mq-template": "test_readme",
        'docker compose exec service python -m neon_echo request \'{"text": "hi"}\'': "test_readme",
        "make demo": "test_readme",
        "cruft create https://github.com/org/neon-mq-template": "test_cruft",
    },
    "docs/add-to-neon.md": {
        "python3 rabbitmq/provision.py --print neon": "test_provision_print",
        "python -m neon_echo doctor": "test_existing_neon",
    },
    "docs/move-a-service.md": {
        'cookiecutter gh:org/neon-mq-template service_name="Neon Metrics" \\': "test_moved_service",
        "python3 rabbitmq/provision.py --client-user": "test_moved_service",
        "tar -C ../neon_metrics_service/neon_metrics_service --exclude=./__main__.py "
        "-c . | tar -x -C src/neon_metrics_service": "test_moved_service",
        "find src -name mq_connector -prune -o -name '*.py' -exec sed -i ": "test_moved_service",
        "mkdir src/neon_mq_connector": "test_moved_service",
        "make lock": "test_moved_service",
        ".venv/bin/python -m pip uninstall --yes neon-mq-connector": "test_moved_service",
        "python -m neon_metrics_service doctor": "test_moved_service",
    },
    f"{TREE.name}/README.md": {
        "docker compose up --build --detach --wait": "test_readme",
        "make test": "test_readme",
        "docker compose exec service python -m << cookiecutter.package_name >> describe": "test_readme",
        "docker compose exec service python -m << cookiecutter.package_name >> doctor": "test_readme",
        "docker compose exec service python -m << cookiecutter.package_name >> dead": "test_readme",
        "python3 rabbitmq/provision.py": "test_readme",
        "git tag v0.1.0": "test_service_release",
        "make link": "test_cruft",
        "cruft update --skip-apply-ask": "test_cruft",
    },
    f"{TREE.name}/docs/calling.md": {
        "python3 rabbitmq/provision.py --broker": "test_shared_broker",
        "python3 rabbitmq/provision.py": "test_calling_page",
    },
    f"{TREE.name}/CONTRIBUTING.md": {"make lint": "test_generated_repository"},
    f"{TREE.name}/docs/observability.md": {
        "echo MQ_METRICS_PORT=9464 >>.env": "test_readme",
        ".venv/bin/python -m pip install --editable '.[metrics,top]'": "test_readme",
        "docker compose exec service python -m << cookiecutter.package_name >> top": "test_readme",
        "curl --silent": "test_readme",
    },
    f"{TREE.name}/docs/scaling.md": {
        "docker compose up --detach --wait --scale service=2": "test_cluster",
        "echo COMPOSE_FILE=compose.yaml:compose.cluster.yaml >>.env": "test_cluster",
        "docker compose exec service python -m << cookiecutter.package_name >> doctor": "test_cluster",
        'docker compose exec rabbitmq rabbitmqctl update_vhost_metadata "<< cookiecutter.vhost >>"': "test_cluster",
        "for node in rabbitmq rabbitmq-2 rabbitmq-3; do": "test_cluster",
    },
    f"{TREE.name}/docs/operations.md": dict.fromkeys(
        (
            "docker compose ps",
            "docker compose run --rm --no-deps service python -m << cookiecutter.package_name >> doctor",
            "mkdir -p -m 700 backup &&",
            "cp -p backup/.env backup/mq_config.json . &&",
            "tar -tzf backup/broker.tgz >/dev/null &&",
            "docker compose exec -T rabbitmq sh -c 'umask 077; cat >/tmp/all.json",
            "docker compose exec rabbitmq rabbitmqctl enable_feature_flag all",
            "sed -i.bak 's|image: rabbitmq:.*|image: rabbitmq:4.3-management|' compose.yaml &&",
            "docker compose logs --no-log-prefix --tail 3 rabbitmq",
            "TAG=1.1.0 docker compose up --build",
            "TAG=1.0.0 docker compose up --no-build",
            "docker compose up --detach --wait --no-recreate --scale",
            "docker compose exec service python -m << cookiecutter.package_name >> dead",
            "docker compose exec rabbitmq rabbitmq-diagnostics -q alarms",
            "docker compose exec rabbitmq rabbitmqctl set_vm_memory_high_watermark",
        ),
        "test_operations",
    ),
    f"{TREE.name}/docs/recipes.md": {"make lock": "test_make"},
    f"{TREE.name}/docs/kubernetes.md": {
        "docker build --build-arg METRICS=yes": "test_kubernetes_pod",
        "python3 deploy/kubernetes/copy_secrets.py": "test_kubernetes_folder",
        "kubectl kustomize deploy/kubernetes/base": "test_kubernetes_folder",
    },
}
#: Blocks that no test runs, and why.
NOT_RUN = {
    "README.md": {"make test": "it is what runs the tests"},
    f"{TREE.name}/docs/observability.md": {
        "docker compose --profile observability up": "Grafana's image can't be had without its registry; "
        "test_observability asks Prometheus all that the two ask it",
    },
    f"{TREE.name}/docs/kubernetes.md": {
        "kubectl apply -k deploy/kubernetes/overlays/broker": "no API server can be had without its "
        "registry; the page says that nothing was applied to one",
    },
    "docs/reliability.md": {
        "make test WORKERS=0 PYTEST_ARGS=tests/connector/functional": "18 minutes of what runs anyway, and "
        "it would write into this page",
    },
}


def blocks(page: Path) -> list[str]:
    """First lines of a page's shell blocks, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^ *```sh\n *(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TEMPLATE).as_posix())
def test_each_block_is_run_or_named(page: Path) -> None:
    name = page.relative_to(TEMPLATE).as_posix()
    known = {**RUN.get(name, {}), **NOT_RUN.get(name, {})}
    unknown = [line for line in blocks(page) if not line.startswith(tuple(known) or ("\0",))]
    assert not unknown, f"{name}: say in {Path(__file__).name} which test runs it"
    gone = [line for line in known if not any(each.startswith(line) for each in blocks(page))]
    assert not gone, f"{name} has no such block any more"


def test_the_tests_that_are_named_take_the_blocks_from_the_page() -> None:
    """And run them as printed: none has a copy that could say something else."""
    for page, known in RUN.items():
        for line, test in known.items():
            source = (TEMPLATE / "tests" / f"{test}.py").read_text(encoding="utf-8")
            assert "shell_blocks(" in source and Path(page).name in source, f"{test}: {line}"
            assert "type_in(" in source or "in_shell(" in source, f"{test} runs nothing"


def test_there_are_many() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 20
