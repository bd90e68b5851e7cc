"""Gives a handler messages without a broker.

Such as::

    harness = Harness(MyService(config={}).handle_api_input)
    outcome = harness.send({"text": "hi"})
    assert outcome.reply["echo"] == {"text": "hi"}
    assert outcome.settled == "ack"

The callback runs in the calling thread, wrapped as in the real consumer: a return acknowledges, an
exception dead-letters the message and sends an error reply. What is async runs on the event loop, and is
waited for. ``with harness:`` calls `on_start` and enters `worker_context`, and `on_stop` is called at its end;
a method marked with `every` isn't called by itself, but a test may call it.
"""

from .harness import REPLY_QUEUE, Harness
from .outcome import Outcome, Publish

__all__ = ["REPLY_QUEUE", "Harness", "Outcome", "Publish"]
