"""Run by a test as a process: the public Neon client, unmodified, asking COUNT times in a row.

    python neon_client.py VHOST QUEUE COUNT TIMEOUT

Its configuration comes from the environment. Prints the replies as one JSON list.
"""

import json
import logging
import sys

logging.disable(logging.CRITICAL)

from neon_mq_connector.utils.client_utils import send_mq_request  # noqa: E402


def main(vhost: str, queue: str, count: str, timeout: str) -> None:
    replies = []
    for number in range(int(count)):
        replies.append(send_mq_request(vhost, {"number": number}, queue, timeout=int(timeout)))
    print("\n" + json.dumps(replies, default=repr))


if __name__ == "__main__":
    main(*sys.argv[1:])
