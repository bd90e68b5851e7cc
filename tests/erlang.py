"""What rabbitmqctl does, without rabbitmqctl: that is a program in Erlang, too, and takes half a second of
processor time to start, in a container a whole one. A node itself evaluates an expression in no time."""

from __future__ import annotations

import re

#: What rabbitmqctl prints of a value.
_PRINTED = """lists:flatten(io_lib:format("~tp", [X]))"""
#: A shell's words that have the node of their container evaluate what stands on standard input.
CALL = (
    "$(ls -d /usr/lib/erlang/erts-*/bin /opt/erlang/lib/erlang/erts-*/bin 2>/dev/null)/erl_call "
    '-sname rabbit -c "$(cat /var/lib/rabbitmq/.erlang.cookie)" -e'
)
#: Who is noted to have done it.
_ACTING = "rmq-cli"


def binary(text: str) -> str:
    """A text as RabbitMQ has its names."""
    return f"<<{','.join(map(str, text.encode()))}>>"


def at_once(arguments: tuple[str, ...]) -> str:
    """What one of rabbitmqctl's commands comes to, as an expression; empty for most of them."""

    def ok(function: str, *texts: str) -> str:
        return f"ok = {function}({', '.join(map(binary, (*texts, _ACTING)))})"

    match arguments:
        case ("await_startup",):
            return "rabbit:await_startup()"
        case "eval", expression:
            return expression.rstrip().removesuffix(".")
        case "set_vm_memory_high_watermark", share if "." in share:
            return f"ok = vm_memory_monitor:set_vm_memory_high_watermark({share})"
        case "set_disk_free_limit", limit:
            return f'rabbit_disk_monitor:set_disk_free_limit("{limit}")'
        case "close_all_connections", "--vhost", vhost, why:
            connections = f"rabbit_connection_tracking:list({binary(vhost)})"
            return f'ok = rabbit_connection_tracking:close_connections({connections}, "{why}", 0)'
        case "set_permissions", "-p" | "--vhost", vhost, user, *patterns:
            return ok("rabbit_auth_backend_internal:set_permissions", user, vhost, *patterns)
        case "clear_permissions", "-p" | "--vhost", vhost, user:
            return ok("rabbit_auth_backend_internal:clear_permissions", user, vhost)
        case "set_topic_permissions", "-p", vhost, user, *rest:
            return ok("rabbit_auth_backend_internal:set_topic_permissions", user, vhost, *rest)
        case "clear_topic_permissions", "-p", vhost, user:
            return ok("rabbit_auth_backend_internal:clear_topic_permissions", user, vhost)
        case "add_user", user, password:
            return ok("rabbit_auth_backend_internal:add_user", user, password)
        case "add_vhost", vhost:
            return ok("rabbit_vhost:add", vhost)
        case "set_vhost_limits", "-p", vhost, limits:
            return ok("rabbit_vhost_limit:parse_set", vhost, limits)
        case "clear_vhost_limits", "-p", vhost:
            return ok("rabbit_vhost_limit:clear", vhost)
    return ""


def script(expression: str) -> str:
    """What erl_call's standard input has to be."""
    return f"X = begin {expression} end,\n{_PRINTED}.\n"


def result(printed: str) -> str:
    """The text that an expression has given, of what erl_call prints.

    :raises AssertionError: it has given none
    """
    found = re.fullmatch(r'\{ok, (?:"(.*)"|\[\])\}\s*', printed, re.DOTALL)
    assert found, f"Erlang: {printed}"
    return found[1] or ""
