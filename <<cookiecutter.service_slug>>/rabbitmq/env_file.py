r"""The rules of .env that all its readers share: Docker Compose, the service, and the scripts here.

    NAME=plain text     # and a comment behind a space
    NAME='as it stands, $ too, but no quote and no ${'
    export NAME="with \" \\ \n \r \t and ${OTHER}"

Each reader has rules beyond these, and they differ: to one, `$OTHER` is a variable, to another six
characters. So a line that isn't of this kind is refused. The service's connector does the same in
mq_connector/config/environment.py, before python-dotenv reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
        ' (?P<single> (?: [^'\\$] | \\(?![\\']) | \$(?!\{{) )* ) ' [ \t]* (?: \#.* )?
      | " (?P<double> (?: [^"\\$] | \\["\\nrt] | {_REFERENCE} )* ) " [ \t]* (?: \#.* )?
      | (?P<plain> (?!['"\#]) {_PLAIN} (?: {_PLAIN} | [ \t]+ (?!\#) {_PLAIN} )* )
        (?: [ \t]*[ ]\#.* | [ \t]* )
      |
      )
    )?
    """,
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class EnvFileError(ValueError):
    """The file has something that its readers would take for different things; says in which line."""


def decode(raw: bytes) -> str:
    """The file's text, as it is: with a byte order mark and any kind of line ends.

    :raises EnvFileError: it isn't UTF-8
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise EnvFileError(f"line {line} isn't UTF-8: save the file as UTF-8") from None


def read(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What the file sets; of a name that stands twice, the last counts.

    :param environment: of the process, which counts before the file where a value refers to a variable
    :raises EnvFileError: a line can't be read, or readers would disagree; values are not repeated
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r")
        if control := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            raise EnvFileError(f"line {number} holds the control character U+{ord(control[0]):04X}")
        found = _LINE.fullmatch(line)
        if found is None:
            raise EnvFileError(
                f"line {number} isn't read alike by all programs that read it: write NAME=value, "
                "NAME='value' or NAME=\"value\" on one line, a $ only in single quotes or as "
                "${NAME}, and comments on lines of their own"
            )
        if found["name"]:
            values[found["name"]] = _value(found, {**values, **environment})
    return values


def _value(line: re.Match[str], known: Mapping[str, str]) -> str:
    if line["single"] is not None:
        return line["single"]
    if line["double"] is None:
        return re.sub(_REFERENCE, lambda found: known.get(found[0][2:-1], ""), line["plain"] or "")
    return re.sub(
        rf"\\(.)|{_REFERENCE}",
        lambda found: (
            _ESCAPES.get(found[1], found[1]) if found[1] else known.get(found[0][2:-1], "")
        ),
        line["double"],
    )
