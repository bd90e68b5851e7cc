"""Note where the repository comes from, make the credentials, and say what to type next.

The generated repository's own script makes the credentials: no secret ever stands in this text, which
cookiecutter leaves behind in the temporary folder after rendering it.
"""

import contextlib
import io
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

ANSWERS = json.loads(r"""<< cookiecutter|tojson >>""")
#: cruft, which renders anew for every update and keeps a note of its own, doesn't say where the
#: template lies.
CRUFT = "_repo_dir" not in ANSWERS
#: What a rendering is made of, in the template's repository.
SOURCES = ["cookiecutter.json", "hooks", "*cookiecutter.service_slug*"]


def remove_leavings() -> None:
    """Tools that were run on the template itself leave caches in it, and those get copied too."""
    for pattern in ("__pycache__", ".*_cache"):
        for cache in list(Path().rglob(pattern)):
            shutil.rmtree(cache)


def git(*words: str) -> str:
    """What git says of the template; nothing where there is no git, or no repository."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(found(ANSWERS["_repo_dir"])), *words]
    with contextlib.suppress(OSError):
        done = subprocess.run(
            command, env=own, capture_output=True, encoding="utf-8", errors="replace"
        )
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


def found(typed: str) -> Path:
    """A folder that was named from where cookiecutter was run, as seen from the new one."""
    bases = (os.environ.get("PWD", os.curdir), ANSWERS["_output_dir"])
    paths = [Path(base, typed).resolve() for base in bases]
    return next((path for path in paths if path.is_dir()), Path(typed))


def address() -> str:
    """The template's, for whoever clones it later: without a login, and nothing abbreviated."""
    typed = str(ANSWERS["_template"])
    if (folder := found(typed)).is_dir():
        return str(folder)
    parts = urlsplit((git("config", "--get", "remote.origin.url") if tracked() else "") or typed)
    if parts.scheme not in ("http", "https"):
        return urlunsplit(parts)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def tracked() -> bool:
    """Whether the template lies in a repository of its own, not just anywhere below another one."""
    return bool(git("ls-files", "cookiecutter.json"))


def stamp() -> None:
    """Write down what a later update needs: whence, which version, which commit, which answers."""
    commit = git("rev-parse", "HEAD") if tracked() else ""
    if commit and git("status", "--porcelain", "--", *SOURCES):
        commit += "-dirty"  # as git itself calls it: what was rendered has no commit of its own
    # The template's twin for Windows brings both along: it renders the same, and has no repository.
    whence = ANSWERS.get("_twin_of") or {"template": address(), "commit": commit or None}
    note = {
        "template": whence["template"],
        "version": ANSWERS["_version"],
        "commit": whence["commit"],
        "answers": {name: text for name, text in ANSWERS.items() if not name.startswith("_")},
    }
    text = json.dumps(note, ensure_ascii=False, indent=2) + "\n"
    Path(".template.json").write_text(text, encoding="utf-8", newline="\n")


# For consoles that can't show what was typed.
sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
remove_leavings()
if not CRUFT and not Path(".cruft.json").exists():
    stamp()
sys.argv = ["rabbitmq/provision.py"]
# Where its own modules are; Python adds it for who types the command.
sys.path.insert(0, "rabbitmq")
with contextlib.redirect_stdout(io.StringIO()) if CRUFT else contextlib.nullcontext():
    runpy.run_path(sys.argv[0], run_name="__main__")
project, here = Path.cwd(), Path(os.environ.get("PWD", os.curdir)).resolve()
request = json.dumps({"text": "hi"})
if not CRUFT:
    print(
        f"\nNext, with Docker:\n"
        f"  cd {shlex.quote(str(project.relative_to(here) if project.is_relative_to(here) else project))}\n"
        f"  docker compose up --build --detach --wait\n"
        f"  docker compose exec service python -m {ANSWERS['package_name']} request '{request}'\n"
        f"Or without it, each in a terminal of its own:\n  make broker\n  make run\n  make request\n"
        f"And a first commit, which later updates build on:\n"
        f"  git init --quiet && git add --all && git commit --quiet --message 'From the template'"
    )
