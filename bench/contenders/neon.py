"""neon-mq-connector 0.10, as Neon's services use it: neon.py select|blocking message|channel."""

import os
import sys
import threading
from typing import Any

os.environ["MQ_ASYNC_CONSUMERS"] = "1" if sys.argv[1] == "select" else ""

import pika
from common import EXPIRATION, HOST, PASSWORD, PORT, QUEUE, USER, VHOST, decode, encode, handle
from neon_mq_connector.connector import MQConnector

PROPERTIES = pika.BasicProperties(expiration=EXPIRATION)


class Service(MQConnector):
    async_consumers_enabled = sys.argv[1] == "select"

    def on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        queue, reply = handle(decode(body))
        if sys.argv[2] == "message":
            self.send_message(reply, queue=queue)
        else:
            channel.basic_publish("", queue, encode(reply), PROPERTIES)
        channel.basic_ack(method.delivery_tag)


user = {"user": USER, "password": PASSWORD}
service = Service({"server": HOST, "port": PORT, "users": {"bench": user}}, "bench")
service.vhost = VHOST
service.register_consumer("bench", VHOST, QUEUE, service.on_message, auto_ack=False)
service.run(run_sync=False)
threading.Event().wait()  # while the observer thread restarts consumers that have died
