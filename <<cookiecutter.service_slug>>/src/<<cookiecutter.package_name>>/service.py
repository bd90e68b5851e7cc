"""The service: what it consumes, and what it answers. This is the file to edit."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pika
from pika.spec import Basic

from .mq_connector import Channel, ConsumerThread, MQConnector, Request, respond

SERVICE_NAME = "<< cookiecutter.__user_key >>"
VHOST = "<< cookiecutter.vhost >>"<< '  # fmt: skip' if cookiecutter.vhost[45:] else '' >>
INPUT_QUEUE = "<< cookiecutter.input_queue >>"<< '  # fmt: skip' if cookiecutter.input_queue[42:] else '' >>


#% if cookiecutter.__class_name|length > 73
class << cookiecutter.__class_name >>Service(
    MQConnector
):
#% else
class << cookiecutter.__class_name >>Service(MQConnector):
#% endif
    """Answers the requests that arrive in the input queue."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, service_name=SERVICE_NAME)
        self.vhost = VHOST
        self.consumers = {
            INPUT_QUEUE: ConsumerThread(
                connection=self.create_mq_connection(),
                queue=INPUT_QUEUE,
                callback_func=self.handle_api_input,
            )
        }

    def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
        """Your logic goes here: it gets the client's request and returns the reply.

        Runs on a worker thread, so it may be slow. If it raises, the request is dead-lettered and the client
        gets an error reply. It may be async, yield its reply in parts, or have a type for its request, see
        docs/handlers.md.
        """
        return {"echo": request}

    def handle_api_input(
        self, channel: Channel, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> Awaitable[None] | None:
        """Decode a request, answer it, send the reply; the connector acknowledges afterwards.

        ``respond`` calls `answer`, and publishes what it returns to the client's queue on ``channel``.
        The signature is pika's, and so are the names of ``channel``: what would stop the consumer raises an
        error that says what to use instead.
        """
        request = Request.decode(body, properties)
        return respond(channel, request, self.answer)
