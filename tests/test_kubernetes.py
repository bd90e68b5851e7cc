"""The folder for Kubernetes: rendered by kustomize, checked against schemas, rules and the service itself."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import manifests
import pika
import pod_security
import pytest
import yaml
from baked import BakedProject, bake_into
from manifests import (
    OVERLAYS,
    VERSIONS,
    Object,
    Rendered,
    copy_secrets,
    default,
    login,
    one,
    pod_of,
    render,
    secret,
)
from mq_connector import connector

__all__ = ["default"]


#: Answers whose names a cluster might not take, or YAML might read as something else.
ODD: dict[str, dict[str, str]] = {
    "defaults": {},
    "longest": {
        "service_slug": 63 * "s",
        "package_name": 63 * "p",
        "vhost": "/" + 254 * "v",
        "input_queue": 216 * "q",
    },
    "signs": {"service_slug": "a_b-c_d", "vhost": "/#&*!|%@,[]", "input_queue": "a:b#&*!|%@,[]:"},
    "a-number": {"service_slug": "1e3", "vhost": "/погода", "input_queue": "1e3"},
    "null": {"service_slug": "null", "vhost": "/天气", "input_queue": "~"},
}
#: RFC 1123: names of objects, and labels of domains; Kubernetes' own rule for values of labels.
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
VALUE = re.compile(r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
#: The operator's own keys, as its source has them; there is no schema of it to be had.
CLUSTER_KEYS = {"replicas", "image", "persistence", "resources", "rabbitmq", "override"}


@pytest.fixture(scope="module", params=ODD, ids=str)
def rendered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BakedProject, dict[str, list[Object]]]:
    """A repository with odd names, and by overlay what would be applied."""
    project = bake_into(tmp_path_factory.mktemp("kubernetes"), ODD[request.param])
    copy_secrets(project)
    return project, {overlay: render(project, overlay) for overlay in OVERLAYS}


# ---- schemas


@pytest.mark.slow  # reads the schemas of each version
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_kinds_fit_its_schemas_strictly(rendered: Rendered, version: str) -> None:
    check, seen = manifests.validator(), []
    for thing in [each for objects in rendered[1].values() for each in objects]:
        own = thing["apiVersion"].split("/")[0] not in ("keda.sh", "rabbitmq.com")
        if own and thing not in seen:  # overlays have most objects in common
            check(thing, version)
            seen.append(thing)
    assert {each["kind"] for each in seen} == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Secret",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_notice_a_key_that_kubernetes_does_not_know(
    default: Rendered, version: str
) -> None:
    check = manifests.validator()
    deployment = copy.deepcopy(one(default[1]["base"], "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(Exception, match="livenessprobe"):
        check(deployment, version)


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize("version", VERSIONS)
def test_kedas_kinds_have_keys_of_keda(rendered: Rendered, version: str) -> None:
    things = [
        each for each in rendered[1]["overlays/keda"] if each["apiVersion"] == "keda.sh/v1alpha1"
    ]
    assert {each["kind"] for each in things} == {"ScaledObject", "TriggerAuthentication"}
    for thing in things:
        manifests.check_keda(thing, version)


@pytest.mark.parametrize("key", ["minReplicas", "advanced"])
def test_a_key_that_keda_does_not_know_is_noticed(default: Rendered, key: str) -> None:
    manifests.validator()
    scaled = copy.deepcopy(one(default[1]["overlays/keda"], "ScaledObject"))
    place = scaled["spec"]
    if key in place:
        place = place[key]["horizontalPodAutoscalerConfig"]["behavior"]
    place["minReplicas"] = 2
    with pytest.raises(Exception, match="minReplicas"):
        manifests.check_keda(scaled, VERSIONS[1])


def test_the_brokers_have_keys_of_the_operator_and_a_part_of_a_pod(rendered: Rendered) -> None:
    check, cluster = manifests.validator(), one(rendered[1]["overlays/broker"], "RabbitmqCluster")
    assert cluster["apiVersion"] == "rabbitmq.com/v1beta1"
    assert set(cluster["spec"]) == CLUSTER_KEYS
    assert set(cluster["spec"]["rabbitmq"]) == {"additionalConfig"}
    assert set(cluster["spec"]["persistence"]) == {"storage"}
    assert list(cluster["spec"]["override"]) == ["statefulSet"]
    [part] = cluster["spec"]["override"]["statefulSet"]["spec"].values()
    [container] = part["spec"]["containers"]
    assert container["name"] == "rabbitmq", "the operator's own container would not get it"
    spec = {
        **part["spec"],
        "containers": [{**container, "resources": cluster["spec"]["resources"]}],
    }
    for version in VERSIONS:
        check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, version)


# ---- names


def test_every_name_is_one_that_kubernetes_takes(rendered: Rendered) -> None:
    for thing in [each for objects in rendered[1].values() for each in objects]:
        assert NAME.fullmatch(thing["metadata"]["name"]), thing["metadata"]["name"]
        for path, text in manifests.strings(thing):
            key = path.rpartition("/")[2]
            if "/labels/" in path or "/matchLabels/" in path:
                assert VALUE.fullmatch(text), (path, text)
            elif key in ("secretName", "name") and "/envFrom" in path:
                assert NAME.fullmatch(text), (path, text)
            elif key == "name" and "/containers/*" in path and "/env/" not in path:
                assert LABEL.fullmatch(text), (path, text)
    # The operator's StatefulSet adds "-server", and the hash of a revision, in a label.
    cluster = one(rendered[1]["overlays/broker"], "RabbitmqCluster")["metadata"]["name"]
    assert LABEL.fullmatch(cluster) and len(cluster) <= 40 and cluster[0].isalpha()


def test_what_is_referred_to_is_there(rendered: Rendered) -> None:
    for overlay in OVERLAYS[:-1]:
        objects = rendered[1][overlay]
        pod = pod_of(objects)
        [volume] = [each["secret"] for each in pod["volumes"] if "secret" in each]
        names = {each["metadata"]["name"]: each for each in objects if "data" in each}
        assert list(names[volume["secretName"]]["data"]) == ["mq_config.json"]
        [source] = pod["containers"][0]["envFrom"]
        assert names[source["configMapRef"]["name"]]["data"]["MQ_SERVER"] == "neon-rabbitmq"
        deployment = one(objects, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        selectors = [
            deployment["spec"]["selector"],
            one(objects, "PodDisruptionBudget")["spec"]["selector"],
            one(objects, "NetworkPolicy")["spec"]["podSelector"],
            *(each["labelSelector"] for each in pod["topologySpreadConstraints"]),
        ]
        assert all(
            each["matchLabels"] and each["matchLabels"].items() <= labels for each in selectors
        )
        for kind in {"HorizontalPodAutoscaler", "ScaledObject"} & {
            each["kind"] for each in objects
        }:
            target = one(objects, kind)["spec"]["scaleTargetRef"]["name"]
            assert target == deployment["metadata"]["name"]
            assert "replicas" not in deployment["spec"], "each `apply` would undo the autoscaler"
    objects = rendered[1]["overlays/keda"]
    [target] = one(objects, "TriggerAuthentication")["spec"]["secretTargetRef"]
    assert {each["metadata"]["name"] for each in objects if "host" in each.get("data", {})} == {
        target["name"]
    }
    objects = rendered[1]["overlays/broker"]
    cluster = one(objects, "RabbitmqCluster")
    [volume] = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"]["secretName"] == one(objects, "Secret")["metadata"]["name"]


def test_keda_asks_for_the_service_s_queue_as_the_service(rendered: Rendered) -> None:
    project, overlays = rendered
    [trigger] = one(overlays["overlays/keda"], "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["queueName"] == project.answers["input_queue"]
    asked = pika.URLParameters(secret(overlays["overlays/keda"], "host"))
    assert asked.virtual_host == project.answers["vhost"]
    [user] = json.loads(project.read("mq_config.json"))["users"].values()
    assert login(asked) == (user["username"], user["password"])
    assert (asked.host, asked.port) == ("neon-rabbitmq.default.svc", 5672)


# ---- security


def test_every_pod_fits_the_level_restricted(rendered: Rendered) -> None:
    for overlay in OVERLAYS[:-1]:
        assert pod_security.broken(pod_of(rendered[1][overlay])) == []


def change(path: str, value: Any) -> Callable[[Object], None]:
    """What sets a value somewhere in a pod; None removes it."""

    def run(spec: Object) -> None:
        *way, last = path.split(".")
        place: Any = spec
        for each in way:
            place = place[int(each)] if each.isdigit() else place.setdefault(each, {})
        if value is None:
            del place[last]
        elif isinstance(place, list):
            place.append(value)
        else:
            place[last] = value

    return run


BREACHES: dict[str, list[Callable[[Object], None]]] = {
    "HostProcess": [change("securityContext.windowsOptions.hostProcess", True)],
    "Host Namespaces": [change(each, True) for each in ("hostNetwork", "hostPID", "hostIPC")],
    "Privileged Containers": [change("containers.0.securityContext.privileged", True)],
    "Capabilities": [
        change("containers.0.securityContext.capabilities", None),
        change("containers.0.securityContext.capabilities.drop", ["NET_RAW"]),
        change("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"]),
    ],
    "Host Ports": [change("containers.0.ports.0.hostPort", 9464)],
    "Host Probes / Lifecycle Hooks": [
        change("containers.0.livenessProbe.httpGet.host", "10.0.0.1"),
        change("containers.0.lifecycle.preStop.tcpSocket.host", "10.0.0.1"),
    ],
    "AppArmor": [change("containers.0.securityContext.appArmorProfile.type", "Unconfined")],
    "SELinux": [change("securityContext.seLinuxOptions.type", "spc_t")],
    "/proc Mount Type": [change("containers.0.securityContext.procMount", "Unmasked")],
    "Sysctls": [change("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}])],
    "Volume Types": [change("volumes.+", {"name": "x", "hostPath": {"path": "/"}})],
    "Privilege Escalation": [
        change("containers.0.securityContext.allowPrivilegeEscalation", None),
        change("containers.0.securityContext.allowPrivilegeEscalation", True),
    ],
    "Running as Non-root": [
        change("securityContext.runAsNonRoot", None),
        change("containers.0.securityContext.runAsNonRoot", False),
    ],
    "Running as Non-root user": [change("securityContext.runAsUser", 0)],
    "Seccomp": [
        change("securityContext.seccompProfile", None),
        change("containers.0.securityContext.seccompProfile.type", "Unconfined"),
    ],
}


@pytest.mark.parametrize("rule", pod_security.RULES)
def test_each_rule_of_the_level_is_noticed_when_it_is_broken(default: Rendered, rule: str) -> None:
    for breach in BREACHES[rule]:
        spec = copy.deepcopy(pod_of(default[1]["base"]))
        breach(spec)
        assert pod_security.broken(spec) == [rule]


def test_the_pods_have_less_than_the_level_allows(default: Rendered) -> None:
    pod = pod_of(default[1]["base"])
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {
        each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")
    } == {"/tmp"}
    assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
    # As whom the image runs by itself.
    user = re.findall(r"^USER (\d+):(\d+)$", default[0].read("Dockerfile"), re.M)
    context = pod["securityContext"]
    assert user == [(str(context["runAsUser"]), str(context["runAsGroup"]))]


# ---- the service behind it


def test_probes_ask_what_the_service_answers(default: Rendered) -> None:
    [container] = pod_of(default[1]["base"])["containers"]
    [port] = container["ports"]
    assert {"name": "MQ_METRICS_PORT", "value": str(port["containerPort"])} in container["env"]
    pages = set(
        re.findall(r'"(/[a-z]+)"', default[0].read("src/neon_echo/mq_connector/metrics/metrics.py"))
    )
    asked = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {each["path"] for each in asked.values()} <= pages
    assert {each["port"] for each in asked.values()} == {port["name"]}
    assert asked["startup"]["path"] == asked["liveness"]["path"] == "/healthz", "not the broker's"
    assert asked["readiness"]["path"] == "/readyz"
    [rule] = one(default[1]["base"], "NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [port["name"]]


def test_a_pod_gets_the_time_that_draining_takes(default: Rendered) -> None:
    pod = pod_of(default[1]["base"])
    assert pod["terminationGracePeriodSeconds"] >= connector.DRAIN + connector._LAST_STEPS


def test_settings_are_ones_that_the_service_knows(default: Rendered) -> None:
    known = set(re.findall(r"^#?([A-Z_]+)=", default[0].read(".env.example"), re.M))
    assert set(one(default[1]["base"], "ConfigMap")["data"]) <= known


def test_the_brokers_settings_are_those_of_the_compose_file_s(default: Rendered) -> None:
    cluster = one(default[1]["overlays/broker"], "RabbitmqCluster")
    lines = cluster["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    there = default[0].read("rabbitmq/rabbitmq.conf").splitlines()
    [in_hand, path] = [each for each in lines if each not in there]
    name, milliseconds = in_hand.split(" = ")
    assert f": -rabbit {name} {milliseconds}\n" in default[0].read("compose.cluster.yaml")
    [container] = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"][
        "containers"
    ]
    [mount] = container["volumeMounts"]
    assert path == f"definitions.local.path = {mount['mountPath']}/definitions.json"
    neons = [each for each in there if re.match("quorum_queue|deprecated_features", each)]
    assert neons and set(neons) <= set(lines)


# ---- what provision.py prints for an existing Neon


def test_what_is_printed_for_an_existing_neon_fits_as_well(rendered: Rendered) -> None:
    project, check = rendered[0], manifests.validator()
    printed = project.script("rabbitmq/provision.py", "--print", "neon").stdout
    things = [each for each in yaml.safe_load_all(printed) if "apiVersion" in (each or {})]
    assert [each["kind"] for each in things] == ["Secret", "Deployment"]
    for thing in things:
        assert NAME.fullmatch(thing["metadata"]["name"])
        check(thing, VERSIONS[1])
    pod = pod_of(things)
    assert pod_security.broken(pod) == []
    assert [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each] == [
        things[0]["metadata"]["name"]
    ]
    assert all(LABEL.fullmatch(each["name"]) for each in pod["containers"])
