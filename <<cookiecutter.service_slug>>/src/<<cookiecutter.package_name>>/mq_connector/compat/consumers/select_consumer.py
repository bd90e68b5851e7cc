"""What a connector registers unless told otherwise."""

from .consumer import NeonConsumerThread


class SelectConsumerThread(NeonConsumerThread):
    """The consumer of the incumbent's connectors."""
