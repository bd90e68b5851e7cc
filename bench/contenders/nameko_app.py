"""nameko's consumer of a queue of its own, as its documentation's chapter on messaging has it."""

# ruff: noqa: E402  (eventlet has to come before what it patches)

import eventlet

eventlet.monkey_patch()

from common import ARGUMENTS, DURABLE, PREFETCH, QUEUE, TASK, URL, WORKERS, answer
from kombu import Queue
from nameko.messaging import Publisher, consume
from nameko.runners import run_services

RAW = {"content_type": "application/data", "content_encoding": "binary"}


class Service:
    name = "bench"
    publish = Publisher()

    @consume(Queue(QUEUE, durable=DURABLE, queue_arguments=ARGUMENTS))
    def on_request(self, body: bytes) -> None:
        queue, reply = answer(body)
        self.publish(reply, exchange="", routing_key=queue, expiration=1, **RAW)


# Its workers are green threads, and it prefetches as many messages as it has of them.
workers = PREFETCH if TASK == "echo" else WORKERS
config = {"AMQP_URI": URL, "max_workers": workers}
with run_services(config, Service):
    while True:
        eventlet.sleep(1)
