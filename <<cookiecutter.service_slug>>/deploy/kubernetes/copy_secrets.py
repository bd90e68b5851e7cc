"""Put the secrets where kustomize reads them: copies of this repository's own, which git ignores.

    python3 deploy/kubernetes/copy_secrets.py --broker neon-rabbitmq.default.svc

base/mq_config.json is for the service, overlays/broker/definitions.json for the broker, and
overlays/keda/keda.env says to KEDA as whom it asks the broker. Run it again after a change of passwords
or queues, then apply. Needs nothing but Python 3.10 and prints no secret.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "rabbitmq"))

from documents import CONFIG, DEFINITIONS, Broken, Document
from owners import KEEP
from topology import SERVICE, VHOST

#: Port of AMQP over TLS.
TLS = "5671"
HERE = "deploy/kubernetes"


def put(name: str, text: str) -> None:
    """Write a file that only its owner can read."""
    Document(f"{HERE}/{name}", 0o600).write(text, (KEEP, KEEP))
    print(f"{HERE}/{name}: written")


def address(username: str, password: str, broker: str) -> str:
    """What KEDA connects to.

    :param broker: its host, and a port if it isn't the usual one
    """
    host, _, port = broker.partition(":")
    scheme = "amqps" if port == TLS else "amqp"
    who, secret, vhost = (quote(each, safe="") for each in (username, password, VHOST))
    return f"{scheme}://{who}:{secret}@{host}:{port or 5672}/{vhost}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--broker",
        metavar="HOST[:PORT]",
        default="neon-rabbitmq.default.svc",
        help="where KEDA, in a namespace of its own, finds the broker (%(default)s)",
    )
    broker = parser.parse_args().broker
    port = broker.partition(":")[2]
    if not re.fullmatch(r"[\w.-]+(:[0-9]+)?", broker) or int(port or TLS) > 65535:
        parser.error(
            f"--broker {broker!r}: give a host, or HOST:PORT, as in neon-rabbitmq.default.svc:5672"
        )
    config, definitions = Document(CONFIG, 0o600), Document(DEFINITIONS, 0o600)
    if config.text is None:
        raise Broken(f"{CONFIG} is missing: python3 rabbitmq/provision.py makes it")
    entry = config.typed(config.users(config.load()).get(SERVICE), dict, f"users.{SERVICE}")
    username, password = config.login(entry, f"users.{SERVICE}")
    put("base/mq_config.json", config.text)
    put("overlays/keda/keda.env", f"host={address(username, password, broker)}\n")
    if definitions.text is None:  # as where the broker is Neon's own
        print(f"{DEFINITIONS} is missing: overlays/broker, which needs it, can't be applied")
    else:
        put("overlays/broker/definitions.json", definitions.text)


if __name__ == "__main__":
    try:
        main()
    except (Broken, OSError) as error:
        sys.exit(str(error))
