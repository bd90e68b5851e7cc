"""Bodies of messages, and ports."""

from __future__ import annotations

import socket
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from ... import payload
from ...errors import PayloadError


def b64_to_dict(data: bytes | str, charset: str = "utf-8") -> dict[Any, Any]:
    """Decode a message's body; what it holds is read and never run.

    :param data: the base64, as bytes or as text
    :param charset: of the text within the base64
    :raises PayloadError: the body isn't a dict in one of the forms of `mq_connector.payload.body`
    """
    if isinstance(data, str):
        data = data.encode()
    if charset.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            data = b64encode(b64decode(data).decode(charset).encode())
        except (Base64Error, UnicodeDecodeError) as error:
            raise PayloadError(f"message isn't base64 of {charset}: {error}") from None
    return payload.decode(data)


def dict_to_b64(data: Mapping[Any, Any], charset: str = "utf-8") -> bytes:
    """Encode a dict as the incumbents do.

    :param charset: of the text within the base64
    :raises PayloadError: it can't be encoded
    """
    body = payload.encode(data)  # ASCII inside, so only charsets that aren't its superset differ
    return b64encode(b64decode(body).decode().encode(charset))


def check_port_is_open(addr: str, port: int) -> bool:
    """Whether something takes connections there.

    :param addr: host name or IP address, of version 4 or 6
    """
    try:
        socket.create_connection((addr, port), 5).close()
    except OSError:
        return False
    return True
