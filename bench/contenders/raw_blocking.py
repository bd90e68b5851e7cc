"""A bare loop on pika's BlockingConnection."""

from typing import Any

import pika
from common import (
    ARGUMENTS,
    DURABLE,
    EVENTS,
    EXPIRATION,
    HOST,
    PASSWORD,
    PORT,
    PREFETCH,
    QUEUE,
    TASK,
    USER,
    VHOST,
    answer,
)

PROPERTIES = pika.BasicProperties(expiration=EXPIRATION)


def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    queue, reply = answer(body)
    if TASK == "event":
        events.basic_publish(EVENTS, "asked", body)
    channel.basic_publish("", queue, reply, PROPERTIES)
    channel.basic_ack(method.delivery_tag)


credentials = pika.PlainCredentials(USER, PASSWORD)
connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, PORT, VHOST, credentials))
channel = connection.channel()
if TASK == "event":  # one with confirms: there each publish waits for the broker's
    events = connection.channel()
    events.confirm_delivery()
channel.queue_declare(QUEUE, durable=DURABLE, arguments=ARGUMENTS)
channel.basic_qos(prefetch_count=PREFETCH)
channel.basic_consume(QUEUE, on_message)
channel.start_consuming()
