"""Build the template's twin: the same template under names that Windows' file systems take.

    python scripts/twin.py                       into .cache/twin: a folder, and it as a zip archive
    python scripts/twin.py --into FOLDER         elsewhere
    python scripts/twin.py --template ADDRESS    what repositories made of it note as their template

NTFS refuses `<` and `>` in names, and this template's folder has to have them. The twin has other
delimiters, and nothing else: what it renders is the same to the byte, the note of where it came from
included. tests/test_twin.py holds it to that; docs/releasing.md says how a release carries it.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment

ROOT = Path(__file__).resolve().parent.parent
NAME = "neon-mq-template-twin"
#: What a rendering is made of, and what whoever looks into the archive wants to read.
SOURCES = [
    ".gitattributes", "LICENSE", "hooks", "<<cookiecutter.service_slug>>", "{{cookiecutter.service_name}}",
]  # fmt: skip
#: Legal in every file system's names and rare in what is rendered. Not square brackets, which mean
#: something in the patterns of `_copy_without_render`; nor Jinja's own, which cookiecutter before 2.6
#: would take for its, when the hook is to say in one line that it is too old.
DELIMITERS = {
    "variable_start_string": "@{",
    "variable_end_string": "}@",
    "block_start_string": "@%",
    "block_end_string": "%@",
    "comment_start_string": "@#",
    "comment_end_string": "#@",
}
README = """\
# The twin of neon-mq-template

Made by `make twin` of version {version}, for file systems that take no `<` and `>` in names: Windows'. It renders the
same repositories as the template itself, to the byte. Don't edit it, edit the template: <{address}>.
"""
#: When all that is in the archive was made: the earliest that the format knows, so that the same
#: sources give the same archive.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


class Translator:
    """Puts the twin's delimiters in the place of the template's, token by token of Jinja's own.

    :param settings: the template's `_jinja2_env_vars`
    """

    def __init__(self, settings: dict[str, str]) -> None:
        self._environment = Environment(**settings, keep_trailing_newline=True)  # type: ignore[arg-type]
        self._others = {settings[name]: other for name, other in DELIMITERS.items()}
        starts = [text for name, text in DELIMITERS.items() if "_start_" in name]
        self._starts = re.compile("|".join(map(re.escape, starts)))
        #: What would begin a delimiter if one followed at once. None of them ends so.
        self._half = tuple({text[0] for text in starts})

    def text(self, source: str) -> str:
        """A text that renders to the same under the twin's delimiters."""
        tokens = list(self._environment.lex(source))
        assert "".join(value for *_, value in tokens) == source, "Jinja has dropped white space"
        made = []
        for index, (_, kind, value) in enumerate(tokens):
            if kind == "data":
                begins = index + 1 < len(tokens) and tokens[index + 1][1].endswith("_begin")
                half = value[-1] if begins and value.endswith(self._half) else ""
                value = self._starts.sub(
                    lambda found: self._as_data(found[0]), value.removesuffix(half)
                ) + (self._as_data(half) if half else "")
            elif kind.endswith(("_begin", "_end")):
                value = re.sub(
                    "[<#%>]{2}", lambda found: self._others.get(found[0], found[0]), value
                )
            made.append(value)
        return "".join(made)

    @staticmethod
    def _as_data(text: str) -> str:
        start, end = DELIMITERS["variable_start_string"], DELIMITERS["variable_end_string"]
        return f"{start} '{text}' {end}"

    def value(self, value: Any) -> Any:
        """The same in each text of a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {name: self.value(each) for name, each in value.items()}
        return value


def git(*words: str) -> str:
    """What git says of the template; nothing where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str | None:
    """What the template's own stamp calls it, in hooks/post_gen_project.py."""
    if not git("ls-files", "cookiecutter.json"):
        return None
    sources = ["cookiecutter.json", "hooks", "*cookiecutter.service_slug*"]
    return git("rev-parse", "HEAD") + (
        "-dirty" if git("status", "--porcelain", "--", *sources) else ""
    )


def files() -> Iterator[Path]:
    """The template's files, without what tools leave behind; paths below its folder."""
    for name in SOURCES:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(ROOT).parts
            left = any(part == "__pycache__" or re.fullmatch(r"\..*_cache", part) for part in parts)
            if path.is_file() and not left and path.suffix != ".pyc":
                yield path.relative_to(ROOT)


def build(into: Path, address: str) -> Path:
    """Make the twin's folder below `into`, in place of an older one; returns its path."""
    variables = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    settings, copied = variables["_jinja2_env_vars"], variables["_copy_without_render"]
    translator = Translator(settings)
    made = into / NAME
    shutil.rmtree(made, ignore_errors=True)
    for path in files():
        inner = Path(*path.parts[1:]).as_posix()
        verbatim = any(inner.startswith(f"{folder}/") for folder in copied)
        rendered = path.parts[0] in ("hooks", "<<cookiecutter.service_slug>>")
        target = made / (translator.text(path.as_posix()) if rendered else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if verbatim or not rendered:
            shutil.copyfile(ROOT / path, target)
        else:
            write(target, translator.text((ROOT / path).read_text(encoding="utf-8")))
        shutil.copymode(ROOT / path, target)
    variables = {
        **translator.value(variables),
        "_twin_of": {"template": address, "commit": commit()},
        "_jinja2_env_vars": {**settings, **DELIMITERS},
    }
    write(made / "cookiecutter.json", json.dumps(variables, ensure_ascii=False, indent=2) + "\n")
    write(made / "README.md", README.format(version=variables["_version"], address=address))
    return made


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def archive(folder: Path) -> Path:
    """The folder as a zip archive beside it, as cookiecutter wants one: all of it in one folder."""
    made = folder.with_suffix(".zip")
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in [folder, *sorted(folder.rglob("*"))]:
            name = path.relative_to(folder.parent).as_posix() + ("/" if path.is_dir() else "")
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.create_system = 3  # Unix, whose permissions follow
            entry.external_attr = path.stat().st_mode << 16 | (0x10 if path.is_dir() else 0)
            entry.compress_type = zipfile.ZIP_STORED if path.is_dir() else zipfile.ZIP_DEFLATED
            zipped.writestr(entry, b"" if path.is_dir() else path.read_bytes())
    return made


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the template's twin for Windows.")
    parser.add_argument("--into", type=Path, default=ROOT / ".cache" / "twin", metavar="FOLDER")
    parser.add_argument(
        "--template",
        default=git("config", "--get", "remote.origin.url") or str(ROOT),
        metavar="ADDRESS",
        help="where the template itself is; by default, where this clone came from",
    )
    options = parser.parse_args(words)
    made = archive(build(options.into.resolve(), options.template))
    print(os.path.relpath(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
