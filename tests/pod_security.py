"""The level "restricted" of Kubernetes' Pod Security Standards, rule by rule.

https://kubernetes.io/docs/concepts/security/pod-security-standards/, for pods of Linux; it includes the rules
of the level "baseline".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

#: What a restricted pod may mount.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"} | {
    "persistentVolumeClaim",
    "projected",
    "secret",
}
#: Settings of the kernel that concern the pod alone.
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
}
SELINUX_TYPES = {
    None,
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}


def containers(spec: Spec) -> list[Spec]:
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return [each for kind in kinds for each in spec.get(kind, [])]


def contexts(spec: Spec) -> list[Spec]:
    """The security contexts: the pod's, then each container's."""
    return [each.get("securityContext", {}) for each in (spec, *containers(spec))]


def effective(spec: Spec, key: str) -> list[Any]:
    """A setting as it holds for each container: its own, else the pod's."""
    pod = spec.get("securityContext", {}).get(key)
    return [each.get("securityContext", {}).get(key, pod) for each in containers(spec)]


def handlers(container: Spec) -> Iterator[Spec]:
    """What the node asks a container by itself."""
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield container.get(probe, {})
    yield from container.get("lifecycle", {}).values()


def _profile(found: Any) -> bool:
    return isinstance(found, dict) and found.get("type") in ("RuntimeDefault", "Localhost")


#: Each rule by its name in the standard, with what says whether a pod keeps it.
RULES: dict[str, Callable[[Spec], bool]] = {
    "HostProcess": lambda spec: (
        not any(each.get("windowsOptions", {}).get("hostProcess") for each in contexts(spec))
    ),
    "Host Namespaces": lambda spec: (
        not any(spec.get(each) for each in ("hostNetwork", "hostPID", "hostIPC"))
    ),
    "Privileged Containers": lambda spec: (
        not any(each.get("privileged") for each in contexts(spec))
    ),
    "Capabilities": lambda spec: all(
        "ALL" in context.get("capabilities", {}).get("drop", [])
        and set(context.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"}
        for context in contexts(spec)[1:]
    ),
    "Host Ports": lambda spec: (
        not any(port.get("hostPort") for each in containers(spec) for port in each.get("ports", []))
    ),
    "Host Probes / Lifecycle Hooks": lambda spec: (
        not any(
            handler.get(kind, {}).get("host")
            for each in containers(spec)
            for handler in handlers(each)
            for kind in ("httpGet", "tcpSocket")
        )
    ),
    "AppArmor": lambda spec: all(
        each.get("appArmorProfile", {"type": "RuntimeDefault"}).get("type")
        in ("RuntimeDefault", "Localhost")
        for each in contexts(spec)
    ),
    "SELinux": lambda spec: all(
        options.get("type") in SELINUX_TYPES and not options.get("user") and not options.get("role")
        for options in (each.get("seLinuxOptions", {}) for each in contexts(spec))
    ),
    "/proc Mount Type": lambda spec: all(
        each.get("procMount", "Default") == "Default" for each in contexts(spec)
    ),
    "Sysctls": lambda spec: (
        {each["name"] for each in contexts(spec)[0].get("sysctls", [])} <= SYSCTLS
    ),
    "Volume Types": lambda spec: all(
        set(each) - {"name"} and set(each) - {"name"} <= VOLUMES for each in spec.get("volumes", [])
    ),
    "Privilege Escalation": lambda spec: all(
        each.get("allowPrivilegeEscalation") is False for each in contexts(spec)[1:]
    ),
    "Running as Non-root": lambda spec: all(
        each is True for each in effective(spec, "runAsNonRoot")
    ),
    "Running as Non-root user": lambda spec: all(
        each.get("runAsUser") != 0 for each in contexts(spec)
    ),
    "Seccomp": lambda spec: (
        all(map(_profile, effective(spec, "seccompProfile")))
        and all(
            _profile(each["seccompProfile"]) for each in contexts(spec) if "seccompProfile" in each
        )
    ),
}


def broken(spec: Spec) -> list[str]:
    """The rules that a pod breaks."""
    return [name for name, kept in RULES.items() if not kept(spec)]
