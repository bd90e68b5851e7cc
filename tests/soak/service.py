"""The service under test: notes each message in a journal, and only then is it acknowledged.

Run as a script, so that its start costs what a service's start costs.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from typing import Any

from mq_connector import ConsumerThread, MQConnector
from mq_connector.connection.wire import frames

#: A message that makes the handler acknowledge what was never delivered: 406, and the channel closes.
BAD_ACK = b"bad ack"
#: Seconds that a message takes at the most: long enough for some to be in hand whenever the service is
#: killed, so that to acknowledge them too early would be to lose them.
WORK = 0.04


def main(vhost: str, queue: str, path: str) -> int:
    """Serve until SIGTERM.

    :param path: of the journal: a line for each message, with its number and whether it is redelivered
    """
    # Appending is one system call, which outlives SIGKILL.
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if body == BAD_ACK:
            if not method.redelivered:
                bad = frames.ack(channel.channel_number, 2**40, False)
                channel.connection.transport.send([bad])
            return
        time.sleep(random.random() * WORK)
        os.write(journal, b"%d %d\n" % (int(body), method.redelivered))

    service = MQConnector(service_name="soak")
    service.vhost = vhost
    service.consumers = {"soak": ConsumerThread(service.create_mq_connection(), queue, handle)}
    return service.serve()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)-8s %(message)s", level=logging.INFO)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    sys.exit(main(*sys.argv[1:]))
