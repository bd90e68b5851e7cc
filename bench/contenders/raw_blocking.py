"""A bare loop on pika's BlockingConnection."""

from typing import Any

import pika
from common import (
    ARGUMENTS,
    DURABLE,
    EXPIRATION,
    HOST,
    PASSWORD,
    PORT,
    PREFETCH,
    QUEUE,
    USER,
    VHOST,
    answer,
)

PROPERTIES = pika.BasicProperties(expiration=EXPIRATION)


def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    queue, reply = answer(body)
    channel.basic_publish("", queue, reply, PROPERTIES)
    channel.basic_ack(method.delivery_tag)


credentials = pika.PlainCredentials(USER, PASSWORD)
connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, PORT, VHOST, credentials))
channel = connection.channel()
channel.queue_declare(QUEUE, durable=DURABLE, arguments=ARGUMENTS)
channel.basic_qos(prefetch_count=PREFETCH)
channel.basic_consume(QUEUE, on_message)
channel.start_consuming()
