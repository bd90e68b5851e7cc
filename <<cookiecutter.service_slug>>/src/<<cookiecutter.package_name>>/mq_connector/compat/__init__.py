"""The names of ``neon-mq-connector`` 0.10, for services and clients that were written for it.

Here that connector, Neon's own, is called the incumbent. A program moves by replacing
``neon_mq_connector`` with this package in its imports: modules, names and signatures are the same.
What behaves differently stands in the template's ``docs/compatibility.md``. Nothing in the connector
itself uses this package, so a service that doesn't either may delete it.
"""

from .connector import MQConnector

__all__ = ["MQConnector"]
