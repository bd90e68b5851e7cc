"""The rules of ``.env`` that all its readers share: python-dotenv, Docker Compose, rabbitmq's scripts.

Each reader has rules beyond these, and they differ: to one, ``$OTHER`` is a variable, to another six
characters; one takes ``#`` after a tab for a comment. So a line that isn't of the common kind is refused
before python-dotenv reads it. ``rabbitmq/env_file.py`` does the same for the scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
#: What a value without quotes is made of, where no white space is. Readers differ in what a backslash
#: does to a dollar.
_PLAIN = rf"(?: [^\s\\$] | \\(?!\$) | {_REFERENCE} )"
#: A line. Of white space only space and tab mean the same to all, and a tab before a comment doesn't.
_LINE = re.compile(
    rf"""
    [ \t]* (?:
      \#.* |
      (?: export[ \t]+ )? (?P<name> (?!export[ \t=]) [A-Za-z_][A-Za-z0-9_.-]* ) [ \t]* = [ \t]* (?:
        ' (?: [^'\\$] | \\(?![\\']) | \$(?!\{{) )* ' [ \t]* (?: \#.* )?
      | " (?: [^"\\$] | \\["\\nrt] | {_REFERENCE} )* " [ \t]* (?: \#.* )?
      | (?!['"\#]) {_PLAIN} (?: {_PLAIN} | [ \t]+ (?!\#) {_PLAIN} )* (?: [ \t]*[ ]\#.* | [ \t]* )
      |
      )
    )?
    """,
    re.VERBOSE,
)


def lines(raw: bytes) -> Iterator[tuple[str, str]]:
    """Each line of the file, with the name that it sets; empty where it sets none.

    :raises ValueError: a line that readers would take for different things: which, and why; values are
        not repeated
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {number} isn't UTF-8; save the file as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if control := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise ValueError(f"line {number} holds the control character U+{ord(control[0]):04X}")
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"line {number} isn't read alike by all programs that read it; write NAME=value, "
                "NAME='value' or NAME=\"value\" on one line, a $ only in single quotes or as "
                "${NAME}, and comments on lines of their own"
            )
        yield found["name"] or "", line
