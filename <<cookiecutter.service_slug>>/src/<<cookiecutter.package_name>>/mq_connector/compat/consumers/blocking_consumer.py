"""What ``MQ_ASYNC_CONSUMERS=false`` asks for."""

from .consumer import NeonConsumerThread


class BlockingConsumerThread(NeonConsumerThread):
    """Works as `SelectConsumerThread` does; the name is there for code that asks for it."""
