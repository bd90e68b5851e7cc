"""The names of the variables that begin with ``MQ_``, and which of those that are set may be meant for one.

Others have variables of that beginning, too (IBM MQ, the links of Docker and Kubernetes), so only a name that is
near to one of these is told of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .environment import environment

#: What the connector reads, with what only `mq_connector.compat` does.
READ = frozenset(
    (
        "MQ_SERVER",
        "MQ_PORT",
        "MQ_USERNAME",
        "MQ_PASSWORD",
        "MQ_TLS",
        "MQ_TLS_CA",
        "MQ_TLS_CERT",
        "MQ_TLS_KEY",
        "MQ_WORKERS",
        "MQ_PREFETCH",
        "MQ_STUCK",
        "MQ_QUEUE_TYPE",
        "MQ_MAX_BODY",
        "MQ_MAX_DEPTH",
        "MQ_REJECTED",
        "MQ_METRICS_PORT",
        "MQ_TRACING",
        "MQ_ASYNC_CONSUMERS",
        "MQ_TESTING",
        "MQ_TESTING_PREFIX",
    )
)
#: What the compose files read beside that.
COMPOSE = frozenset(
    (
        "MQ_MANAGEMENT_PORT",
        "MQ_BROKER_METRICS_PORT",
        "MQ_PROMETHEUS_PORT",
        "MQ_GRAFANA_PORT",
    )
)
#: What else a variable is called by those who guess.
_GUESSES = {"MQ_HOST": "MQ_SERVER", "MQ_HOSTS": "MQ_SERVER", "MQ_SERVERS": "MQ_SERVER"}
#: How much of two names has to be alike (`difflib.SequenceMatcher.ratio`), and how many letters of a
#: shortened one have to be there.
_NEAR, _SHORTEST = 0.82, 4


def mistaken(env: Mapping[str, str] | None = None) -> list[str]:
    """Variables that are set, have no effect, and look as if they were to have one; a sentence for each.

    No value is told, as it may be a password.

    :param env: by default `environment`
    :raises ConfigurationError: as `environment`
    """
    found = environment() if env is None else env
    sentences = []
    for name in sorted(found):
        if re.fullmatch(r"MQ[_.-][A-Z0-9_.-]+", name, re.IGNORECASE) and name not in READ | COMPOSE:
            meant = _nearest(re.sub("[.-]", "_", name.upper()))
            if meant:
                sentences.append(f"{name} has no effect; did you mean {meant}?")
    return sentences


def _nearest(name: str) -> str:
    """The known name that is nearest to another one; empty where none is near."""
    known = READ | COMPOSE
    if name in known or name in _GUESSES:
        return _GUESSES.get(name, name)
    import difflib  # which a process without such a name does without

    word = name.removeprefix("MQ_")
    words = sorted(each.removeprefix("MQ_") for each in known)
    near = difflib.get_close_matches(word, words, 1, _NEAR)
    longer = [each for each in words if len(word) >= _SHORTEST and each.startswith(word)]
    return f"MQ_{(near or longer)[0]}" if near or longer else ""
