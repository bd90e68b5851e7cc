"""The files that are made here: read with care, written in one piece, never readable by more people than need be."""

from __future__ import annotations

import io
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, TextIO

from owners import Ids, give, permit

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "mq_config.json"
SETTINGS = ".env"
DEFINITIONS = "rabbitmq/definitions.json"


class Patient(io.TextIOBase):
    """A stream that can't always be written, as its reader goes (`head` does) or the disk is full: what is begun
    here has to be finished all the same.

    :param stream: None where the process has been given none
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        #: Why what was written isn't there, if somebody wants it.
        self.trouble: str | None = None

    def write(self, text: str) -> int:
        """Write, or let it go nowhere."""
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError as error:
                if not isinstance(error, BrokenPipeError):
                    self.trouble = error.strerror
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        return len(text)


class Broken(Exception):
    """Something that only its owner can repair: which file, which key, what to do."""


class Document:
    """One of the files that are made here.

    :param name: path relative to the repository
    :param mode: permission bits if it is to be made
    :raises Broken: it is there and can't be read
    """

    def __init__(self, name: str, mode: int) -> None:
        self.name, self.mode = name, mode
        # Where a link leads, so that writing doesn't put a file in the link's place.
        self.path = Path(os.path.realpath(ROOT / name))
        self.text: str | None = None
        try:
            # With its line ends as they are, so that what is added can have the same.
            with self.path.open(encoding="utf-8", newline="") as file:
                self.text = file.read()
                self.status: os.stat_result | None = os.fstat(file.fileno())
        except FileNotFoundError:
            self.status = None
        except PermissionError as error:
            raise Broken(
                f"{name} can't be read ({error.strerror}): run this as the user whose it is, or as root"
            ) from None
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
            raise Broken(f"{name} can't be read ({reason}): {self.way_out}") from None

    @property
    def way_out(self) -> str:
        return "repair it, or remove it and run this again"

    def load(self) -> dict[str, Any]:
        """What the file holds, or an empty object where it is missing.

        :raises Broken: it is no JSON object
        """
        if self.text is None:
            return {}
        try:
            data = json.loads(self.text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise Broken(f"{self.name} isn't valid JSON ({error}): {self.way_out}") from None
        whole: dict[str, Any] = self.typed(data, dict, "the whole of it")
        return whole

    def typed(self, value: Any, kind: type[Any], key: str) -> Any:
        """The value, if it is of that type.

        :raises Broken: it isn't
        """
        if isinstance(value, kind):
            return value
        needed = {"dict": "an object", "list": "a list", "str": "a string"}[kind.__name__]
        raise Broken(f"{self.name}: {key} isn't {needed}: {self.way_out}")

    def login(self, user: dict[str, Any], key: str) -> tuple[str, str]:
        """Name and password in an entry under `users`; empty where they are missing.

        Their connector reads `user`, its documentation says `username`. Zero or false isn't missing:
        somebody meant something by it.

        :param key: where the entry stands
        :raises Broken: they can't be used; the password is not repeated
        """
        name = user.get("user") if user.get("username") in (None, "") else user["username"]
        found = []
        for what, value in (("username", name), ("password", user.get("password"))):
            text = str(self.typed("" if value is None else value, str, f"{key}.{what}"))
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise Broken(
                    f"{self.name}: {key}.{what} holds a character that no broker can be sent (NUL, or "
                    f"half of a pair): {self.way_out}"
                )
            found.append(text)
        return found[0], found[1]

    def users(self, config: dict[str, Any]) -> dict[str, Any]:
        """The part of a configuration that holds the users; made where it is missing.

        :raises Broken: it isn't what it should be
        """
        inner = self.typed(config.get("MQ", config), dict, "MQ")
        users: dict[str, Any] = self.typed(inner.setdefault("users", {}), dict, "users")
        return users

    def unless_same(self, data: dict[str, Any]) -> str:
        """The file's text if it holds just that already, so that nobody's layout is touched."""
        if self.text is not None and self.load() == data:
            return self.text
        return json.dumps(data, indent=2) + "\n"

    def write(self, text: str, owner: Ids) -> None:
        """Put the file there in one piece, never readable by more people than it is meant for.

        :param owner: numbers of a user, which takes root, and a group to give it to; `KEEP` for either
        :raises Broken: it can't be written, and is as it was
        """
        try:
            self._put(text, owner)
        except OSError as error:
            raise Broken(
                f"{self.name} can't be written in {self.path.parent} ({error.strerror}): it is as it was; "
                "mend that, and run this again"
            ) from None

    def _put(self, text: str, owner: Ids) -> None:
        """What `write` does; raises OSError where it can't."""
        mode = self.mode if self.status is None else stat.S_IMODE(self.status.st_mode)
        beside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.tmp")
        # O_EXCL follows no link, and the file has these rights before it has a byte.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                give(handle, owner)
                file.write(text)
                file.flush()
                permit(handle, mode)
                os.fsync(handle)
            os.replace(beside, self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
