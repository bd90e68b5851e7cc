"""kombu's ConsumerMixin, as in its documentation's example of an RPC server."""

from typing import Any

from common import ARGUMENTS, DURABLE, PREFETCH, QUEUE, URL, answer
from kombu import Connection, Message, Queue
from kombu.mixins import ConsumerProducerMixin


class Worker(ConsumerProducerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        queue = Queue(QUEUE, durable=DURABLE, queue_arguments=ARGUMENTS)
        return [Consumer([queue], callbacks=[self.on_request], prefetch_count=PREFETCH)]

    def on_request(self, body: object, message: Message) -> None:
        queue, reply = answer(message.body)
        self.producer.publish(reply, exchange="", routing_key=queue, expiration=1, retry=True)
        message.ack()


with Connection(URL) as connection:
    Worker(connection).run()
