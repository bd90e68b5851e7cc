"""A dramatiq actor, run by its own command: dramatiq dramatiq_app --processes 1 --threads N."""

import dramatiq
import pika
from common import EXPIRATION, QUEUE, URL, answer
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=URL)
dramatiq.set_broker(broker)
PROPERTIES = pika.BasicProperties(expiration=EXPIRATION)


@dramatiq.actor(queue_name=QUEUE)
def on_request(body: str) -> None:
    queue, reply = answer(body)
    broker.channel.basic_publish("", queue, reply, PROPERTIES)
