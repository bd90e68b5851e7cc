"""A bare loop on pika's SelectConnection: the yardstick."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
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
    WORKERS,
    answer,
)

if "BENCH_RECEIVE" in os.environ:  # bytes read at a time; pika asks for 4096
    from pika.adapters.utils import io_services_utils

    transport: Any = io_services_utils._AsyncTransportBase
    transport._MAX_RECV_BYTES = int(os.environ["BENCH_RECEIVE"])

PROPERTIES = pika.BasicProperties(expiration=EXPIRATION)
pool = ThreadPoolExecutor(WORKERS)


def reply(channel: Any, delivery_tag: int, queue: str, body: bytes) -> None:
    channel.basic_publish("", queue, body, PROPERTIES)
    channel.basic_ack(delivery_tag)


def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    reply(channel, method.delivery_tag, *answer(body))


def on_message_threaded(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    def work() -> None:
        done = functools.partial(reply, channel, method.delivery_tag, *answer(body))
        channel.connection.ioloop.add_callback_threadsafe(done)

    pool.submit(work)


def on_open(connection: Any) -> None:
    for number in range(int(os.environ.get("BENCH_CONSUMERS", "1"))):
        queue = f"{QUEUE}.{number}" if number else QUEUE
        connection.channel(on_open_callback=functools.partial(consume, queue))


def consume(queue: str, channel: Any) -> None:
    channel.queue_declare(queue, durable=DURABLE, arguments=ARGUMENTS)
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, on_message if WORKERS == 1 else on_message_threaded)


credentials = pika.PlainCredentials(USER, PASSWORD)
parameters = pika.ConnectionParameters(HOST, PORT, VHOST, credentials)
pika.SelectConnection(parameters, on_open_callback=on_open).ioloop.start()
