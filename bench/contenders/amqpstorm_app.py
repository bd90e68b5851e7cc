"""amqpstorm, as in its examples of an RPC server, a robust and a scalable consumer."""

import threading
import time

import amqpstorm
from amqpstorm import Message
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


def on_request(message: Message) -> None:
    queue, reply = answer(message.body)
    Message.create(message.channel, reply, {"expiration": EXPIRATION}).publish(queue)
    message.ack()


def connect() -> amqpstorm.Connection:
    while True:
        try:
            return amqpstorm.Connection(HOST, USER, PASSWORD, port=PORT, virtual_host=VHOST)
        except amqpstorm.AMQPError:
            time.sleep(1)


def consume(connection: amqpstorm.Connection) -> None:
    channel = connection.channel()
    channel.queue.declare(QUEUE, durable=DURABLE, arguments=ARGUMENTS)
    channel.basic.qos(max(1, PREFETCH // WORKERS))
    channel.basic.consume(on_request, QUEUE)
    channel.start_consuming()


while True:
    connection = connect()
    try:
        for _ in range(WORKERS - 1):
            threading.Thread(target=consume, args=(connection,), daemon=True).start()
        consume(connection)
    except amqpstorm.AMQPError:
        pass
