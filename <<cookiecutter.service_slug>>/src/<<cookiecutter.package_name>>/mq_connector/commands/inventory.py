"""Which version of the connector this is, and which of its files are no longer as they came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..errors import MQError, printable
from .terminal import say

#: The connector's folder.
FOLDER = Path(__file__).resolve().parent.parent
#: What it came with: its version, then its files as `sha256sum --check` reads them.
MANIFEST = "manifest.sha256"
_TITLE = re.compile(r"# mq_connector (\S+)")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
#: Files that are named before the rest is counted.
_NAMED = 20


class ManifestError(MQError):
    """The manifest is missing, or isn't one."""


@dataclass(frozen=True)
class Inventory:
    """How the connector's files differ from those that it came with."""

    #: Of the connector, such as ``1.0.0``.
    version: str
    #: Paths below the connector's folder, with slashes; a folder that has gone whole ends with one.
    edited: tuple[str, ...]
    added: tuple[str, ...]
    missing: tuple[str, ...]


def digest(path: Path) -> str:
    """SHA-256 of a text file, in hexadecimal, whichever line endings git has given it."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def files(folder: Path = FOLDER) -> dict[str, Path]:
    """The connector's files by their paths below its folder, without its manifest and what tools,
    editors and desktops leave behind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        left = any(part.startswith(".") or part == "__pycache__" for part in Path(name).parts)
        if path.is_file() and name != MANIFEST and not left and path.suffix != ".pyc":
            found[name] = path
    return found


def manifest(version: str, folder: Path = FOLDER) -> str:
    """The text of a manifest for the files as they are."""
    lines = [f"{digest(path)}  {name}" for name, path in files(folder).items()]
    return "\n".join([f"# mq_connector {version}", *lines, ""])


def take(folder: Path = FOLDER) -> Inventory:
    """Compare the connector's files with its manifest.

    :raises ManifestError: it can't be read, or is damaged
    """
    version, noted = _read(folder / MANIFEST)
    there = files(folder)
    missing = sorted(noted.keys() - there.keys())
    return Inventory(
        version,
        tuple(name for name in there if name in noted and _sum_of(there[name]) != noted[name]),
        tuple(name for name in there if name not in noted),
        tuple(dict.fromkeys(_whole(name, folder) for name in missing)),
    )


def show(folder: Path = FOLDER) -> int:
    """Print version and differences; to differ is no fault, for the files are the owner's.

    :returns: exit code: 0, or 1 where the manifest is missing or damaged
    """
    try:
        for line in report(folder):
            say(line)
    except ManifestError as error:
        say(str(error))
        return 1
    return 0


def report(folder: Path = FOLDER) -> Iterator[str]:
    """Version and differences in words, a line for each.

    :raises ManifestError: the manifest can't be read, or is damaged
    """
    found = take(folder)
    kinds = {"edited": found.edited, "added": found.added, "missing": found.missing}
    count = sum(map(len, kinds.values()))
    files_differ = "1 file differs" if count == 1 else f"{count} files differ"
    yield f"connector: version {found.version}, {files_differ if count else 'as it came'}"
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"{kind}: {printable(', '.join(names[:_NAMED]))}{more}"


def _read(path: Path) -> tuple[str, dict[str, str]]:
    again = "an update brings a new one"
    try:
        title, *lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ManifestError(
            f"connector: of unknown version, {path.name} can't be read ({error.strerror}); {again}"
        ) from None
    except ValueError:  # no line, or no text
        raise ManifestError(f"connector: {path.name} is damaged; {again}") from None
    version = _TITLE.fullmatch(title)
    matches = [_LINE.fullmatch(line) for line in lines]
    noted = {found[2]: found[1] for found in matches if found}
    if not version or len(noted) != len(lines):
        raise ManifestError(f"connector: {path.name} is damaged; {again}")
    return version[1], noted


def _sum_of(path: Path) -> str:
    try:
        return digest(path)
    except OSError:
        return "unreadable, which no file came as"


def _whole(name: str, folder: Path) -> str:
    """A missing file, or the topmost folder that has gone with it."""
    for parent in reversed(Path(name).parents[:-1]):
        if not (folder / parent).is_dir():
            return f"{parent.as_posix()}/"
    return name
