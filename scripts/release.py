"""Keep version, changelog, manifest and tags together.

    python scripts/release.py check                  whether they agree; 1 and a line for each trouble
    python scripts/release.py check --since REF      that what is generated didn't change since then
                                                     without an entry in the changelog
    python scripts/release.py set 1.2.0              the state that is to be released and tagged
    python scripts/release.py set 1.3.0-dev          the one after it, in which work goes on
    python scripts/release.py notes                  what the changelog says of this version

The version stands in cookiecutter.json, as `_version`. docs/releasing.md has the steps of a release.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What a generated repository is made of.
SOURCES = ["cookiecutter.json", "hooks", "<<cookiecutter.service_slug>>"]
#: As semantic versioning has it, but for its rarer forms: `-dev` is what isn't out yet.
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(-dev)?")
TITLE = re.compile(r"^## (?:(Unreleased)|(\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d))$", re.MULTILINE)
IN_JSON = re.compile(r'^  "_version": "(.*)",$', re.MULTILINE)
#: It follows from the other files, and changes with the version alone.
DERIVED = "/manifest.sha256"


def git(*words: str) -> str | None:
    """What git prints; None where it fails, or where there is none."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def read(name: str, ref: str = "") -> str:
    """A file as it is, or as it was at a commit; nothing where it wasn't there."""
    if ref:
        return git("show", f"{ref}:{name}") or ""
    return (ROOT / name).read_text(encoding="utf-8")


def version(ref: str = "") -> str:
    """The template's version; nothing where it had none."""
    text = read("cookiecutter.json", ref)
    return str(json.loads(text).get("_version", "")) if text else ""


def ordered(text: str) -> tuple[int, ...]:
    """A version as numbers that can be compared: `1.0.0-dev` comes before `1.0.0`."""
    found = VERSION.fullmatch(text)
    assert found, text
    return (*map(int, found.groups()[:3]), 0 if found[4] else 1)


def sections(ref: str = "") -> dict[str, str]:
    """The changelog: what stands under each version, and under `Unreleased`, the newest first."""
    parts = TITLE.split(read("CHANGELOG.md", ref))[1:]
    return {
        open_ or name: text.strip()
        for open_, name, _, text in zip(*[iter(parts)] * 4, strict=True)  # three groups, one text
    }


def tags() -> list[str]:
    """Versions that are tagged in this repository, the oldest first; a clone may have none."""
    found = (tag[1:] for tag in (git("tag", "--list", "v*") or "").split())
    return sorted((tag for tag in found if VERSION.fullmatch(tag)), key=ordered)


def changed(since: str) -> list[str]:
    """Files of SOURCES that differ from those at a commit; the version itself doesn't count."""
    names = (git("diff", "--name-only", "--no-renames", "-z", since, "--", *SOURCES) or "").split(
        "\0"
    )
    if IN_JSON.sub("", read("cookiecutter.json", since)) == IN_JSON.sub(
        "", read("cookiecutter.json")
    ):
        names = [name for name in names if name != "cookiecutter.json"]
    return [name for name in names if name and not name.endswith(DERIVED)]


def entries(ref: str = "") -> set[str]:
    """Lines of the changelog that say something."""
    return {line.strip() for text in sections(ref).values() for line in text.splitlines() if line}


def troubles(since: str | None) -> Iterator[str]:
    """What doesn't agree, a line for each.

    :param since: a commit; without one, the newest release is meant
    """
    now, log, out = version(), sections(), tags()
    if not VERSION.fullmatch(now):
        yield f"cookiecutter.json: _version is {now!r}; it must be like 1.2.3, or 1.2.3-dev until then"
        return
    is_open = now.endswith("-dev")
    first = next(iter(log), "nothing")
    expected = "Unreleased" if is_open else now
    if first != expected:
        yield f"CHANGELOG.md begins with {first}, for version {now} it must begin with {expected}"
    elif not is_open and not log[first]:
        yield f"CHANGELOG.md says nothing of {now}"
    past = [name for name in log if name not in ("Unreleased", now)]
    if past != sorted(past, key=ordered, reverse=True):
        yield f"CHANGELOG.md isn't in order, the newest version first: {', '.join(past)}"
    newest = max([*past, *(tag for tag in out if tag != now)], key=ordered, default=None)
    if newest and ordered(now) <= ordered(newest):
        yield f"_version is {now}, but {newest} is released: set a later one"
    for tag in out:
        if version(f"v{tag}") != tag:
            yield f"tag v{tag} is on a commit whose version is {version(f'v{tag}') or 'missing'}"
        if tag not in log:
            yield f"CHANGELOG.md has no section {tag}, which is tagged"
    if now in out and (files := changed(f"v{now}")):
        yield f"{now} is out, but changed since: {_few(files)}: set the next version, with -dev"
    major = now.split(".")[0]
    if f"\n## {major}.0.0\n" not in read("docs/updating.md"):
        yield f"docs/updating.md doesn't say what {major}.0.0 asks of those who update"
    base = since or (f"v{out[-1]}" if out else None)
    if base is None:
        if not log.get(first):
            yield f"CHANGELOG.md has no entry under {first}"
    elif git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") is None:
        yield f"there is no commit {base} here: git fetch --tags --unshallow"
    elif (files := changed(base)) and not entries() - entries(base):
        yield f"CHANGELOG.md has no new entry since {base}, but changed have: {_few(files)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def set_version(new: str) -> None:
    """Write a version, and what follows from it, to the files that have it."""
    text = read("CHANGELOG.md")
    if new.endswith("-dev"):
        if "Unreleased" not in sections():
            text = TITLE.sub(lambda found: f"## Unreleased\n\n{found[0]}", text, count=1)
    else:
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        text = text.replace("## Unreleased", f"## {new} - {today}", 1)
    write("CHANGELOG.md", text)
    write("cookiecutter.json", IN_JSON.sub(f'  "_version": "{new}",', read("cookiecutter.json")))
    subprocess.run([sys.executable, "-B", str(ROOT / "scripts" / "manifest.py")], check=True)


def write(name: str, text: str) -> None:
    (ROOT / name).write_text(text, encoding="utf-8", newline="\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Version, changelog, manifest and tags.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="say what doesn't agree; 1 if anything doesn't")
    checking.add_argument("--since", metavar="REF", help="a commit, in place of the newest release")
    commands.add_parser("notes", help="print what the changelog says of this version")
    setting = commands.add_parser("set", help="write a version, and what follows from it")
    setting.add_argument("version", help="1.2.3, or 1.2.3-dev until then")
    options = parser.parse_args(words)
    if options.command == "notes":
        print(next(iter(sections().values()), ""))
        return 0
    if options.command == "set":
        if not VERSION.fullmatch(options.version):
            parser.error(f"{options.version!r} isn't like 1.2.3 or 1.2.3-dev")
        set_version(options.version)
        options.since = None
    found = [*troubles(options.since)]
    for line in found:
        print(line)
    if not found:
        released = f"released: {', '.join(tags())}" if tags() else "no tag of a release here"
        print(f"version {version()}; {released}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
