"""Gives a handler messages without a broker.

Such as::

    harness = Harness(MyService(config={}).handle_api_input)
    outcome = harness.send({"text": "hi"})
    assert outcome.reply["echo"] == {"text": "hi"}
    assert outcome.settled == "ack"

The callback runs in the calling thread, wrapped as in the real consumer: a return acknowledges, an
exception dead-letters the message and answers with an error. What is async runs on the event loop, and is
waited for. Within ``with harness:`` the service has begun (`on_start`, `worker_context`), afterwards it
has ended (`on_stop`); what it does `every` so many seconds is a method that a test may call.
"""

from .harness import REPLY_QUEUE, Harness
from .outcome import Outcome, Publish

__all__ = ["REPLY_QUEUE", "Harness", "Outcome", "Publish"]
