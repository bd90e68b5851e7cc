"""Logging costs no thread, whatever it raises; what repeats itself is told ever more rarely."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from mq_connector.logs import Complaints, JsonFormatter, Logger, TextFormatter, text_of


def told(complaints: Complaints, what: str, times: int) -> list[int]:
    """Which of that many repetitions are more than a line for DEBUG."""
    return [number for number in range(1, times + 1) if complaints.level(what) == logging.WARNING]


def test_a_complaint_is_told_ever_more_rarely() -> None:
    assert told(Complaints(), "down", 300) == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256]


def test_another_one_is_news_and_does_not_make_the_first_news_again() -> None:
    complaints = Complaints()
    assert told(complaints, "down", 3) == [1, 2]
    assert told(complaints, "refused", 3) == [1, 2]
    assert told(complaints, "down", 3) == [1]  # The fourth time.


def test_after_a_while_it_is_news_again(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = Complaints()
    now = 1000.0
    monkeypatch.setattr("mq_connector.logs.time.monotonic", lambda: now)
    assert told(complaints, "lost", 3) == [1, 2]
    now += 3600
    assert told(complaints, "lost", 3) == [1, 2]


def test_ever_new_complaints_are_not_remembered_for_ever() -> None:
    complaints = Complaints()
    for number in range(1000):
        assert complaints.level(f"number {number}") == logging.WARNING
    assert len(complaints._heard) == 16


class Bad(logging.Handler):
    """Raises instead of writing, as does the filter of the same kind."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> bool:
        raise self.error

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.error


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    yield logging.getLogger("mq_connector.test")
    logging.getLogger("mq_connector.test").handlers.clear()
    logging.getLogger("mq_connector.test").filters.clear()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["addHandler", "addFilter"])
def test_a_thread_outlives_whatever_its_log_raises(
    logger: logging.Logger, where: str, error: type[BaseException]
) -> None:
    getattr(logger, where)(Bad(error))
    went_on = threading.Event()

    def log() -> None:
        Logger("mq_connector.test").error("a line")
        went_on.set()

    thread = threading.Thread(target=log)
    thread.start()
    thread.join(60)
    assert went_on.is_set()


def test_whoever_interrupts_the_main_thread_while_it_logs_is_heard(logger: logging.Logger) -> None:
    logger.addHandler(Bad(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Logger("mq_connector.test").error("a line")


class Unspeakable(BaseException):
    """Raises when it is printed."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_that_cannot_be_printed_has_a_text(error: type[BaseException]) -> None:
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(text_of(Unspeakable(error))))
    thread.start()
    thread.join(60)
    assert told == ["Unspeakable (which can't be printed)"]


def test_an_error_without_a_text_is_called_by_its_name() -> None:
    assert text_of(MemoryError()) == "MemoryError"


#: Ends a line, is obeyed by terminals, and turns the direction of writing.
HOSTILE = "a\n2026 ERROR b\r\x1b[31m\u2028\u202e\x9b1m\ud800"


def record_of(text: str) -> logging.LogRecord:
    try:
        raise ValueError(text)
    except ValueError:
        return logging.LogRecord("n", logging.ERROR, "f", 1, "%s", (text,), sys.exc_info())


def test_a_line_for_a_person_holds_nothing_that_a_terminal_obeys() -> None:
    first, *others = TextFormatter().format(record_of(HOSTILE)).split("\n")
    assert first.endswith(r"ERROR    a\n2026 ERROR b\r\x1b[31m\u2028\u202e\x9b1m\ud800")
    assert len(others) > 3
    assert all(each.startswith("    ") and each.isprintable() for each in others)


def test_a_line_in_json_is_one_object_whatever_is_in_it() -> None:
    record = record_of(HOSTILE)
    record.about = {"message_id": HOSTILE, "odd": {1, 2}, "level": "forged"}
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert (found["message"], found["message_id"], found["odd"]) == (HOSTILE, HOSTILE, "{1, 2}")
    assert found["level"] == "ERROR"
    assert found["traceback"].startswith("Traceback")
