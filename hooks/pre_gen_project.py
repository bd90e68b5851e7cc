"""Refuse, before a file is written, answers with which the generated repository could not work.

cookiecutter renders the answers into this script and runs it in the new, empty folder, which it
removes if this fails. Each problem is a line; then comes the command that asks again.
"""

import json
import re
import reprlib
import shlex
import sys

#: JSON in a raw string keeps the answers data, whatever they hold: inside it every quote of theirs
#: has a backslash before it, and the closing brace keeps three quotes from meeting at the end.
RENDERED = r"""<< cookiecutter|tojson >>"""
#: How long each is, by name: of a character in two halves, as JSON has it in YAML, JSON makes one.
LENGTHS = "<% for _, text in cookiecutter|dictsort(true) %><< text|string|length >> <% endfor %>"
#: Control codes, half surrogates, non-characters, and what turns the rest around (CVE-2021-42574).
UNFIT = r"[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
#: Waits at most ten seconds for a folder to go, and removes those above it, if they are empty.
LATER = """import os, sys, time
for _ in range(5000): os.path.exists(sys.argv[1]) and time.sleep(0.002)
for parent in sys.argv[2:]: os.rmdir(parent)"""
NO_DEVICE = "(?!(aux|con|nul|prn|com[0-9]|lpt[0-9])$)"
NAMELESS = "could not be made of service_name, which has no letter or digit: give one of them"
SLUG = "can't name a folder: use up to 63 of a-z, 0-9, and - between them (not con, nul, ...)"
PACKAGE = "can't name a package: use up to 63 of a-z, 0-9 and _, a letter first (not con, nul, ...)"
USER = "can't name a user: use up to 63 of a-z, A-Z, 0-9 and . _ -"


def trouble(name: str, text: str) -> str | None:
    """What is wrong with an answer, and what to do; None if it will do."""
    if name == "service_slug":
        if text == "-":
            return NAMELESS
        fits = re.fullmatch(NO_DEVICE + "[a-z0-9]+([-_][a-z0-9]+)*", text) and len(text) <= 63
        return None if fits else SLUG
    if name == "package_name":
        taken = " ".join(sum(answers["_taken"].values(), [*sys.stdlib_module_names])).split()
        if text in taken:
            return f"is taken by Python or a library: choose another, as neon_{text}"
        return None if re.fullmatch(NO_DEVICE + "[a-z][a-z0-9_]{0,62}", text) else PACKAGE
    if name == "__user_key":
        if text in ("mq_handler", "neon_api_utils"):
            return "is the key or the user of Neon's clients: choose another"
        return None if re.fullmatch("[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", text) else USER
    if name not in ("vhost", "input_queue"):  # free text is data: all else may be in it
        odd = re.search(UNFIT, text)
        return f"holds the unprintable character U+{ord(odd[0]):04X}: take it out" if odd else None
    if name == "vhost" and not text.startswith("/"):
        return "does not start with a slash: put one in front"
    if name == "input_queue" and (not text or text.startswith("amq.")):
        return "is empty or starts with amq., which is the broker's own: choose another name"
    if not text.isprintable() or set(text) & {*" '\"`\\$<>{}"}:
        return "holds a space, a quote, or one of \\ ` $ < > { }: leave such characters out"
    # AMQP counts the bytes of names (0-9-1, 4.2.5.3); a queue that is made for a trial has 39 more.
    size, most = len(text.encode()), 216 if name == "input_queue" else 255
    said = f"has {size} bytes: use {most} at most, for AMQP ends at 255 with suffixes"
    return said if size > most else None


def remove_parents_later(slug: str) -> None:
    """A slug with slashes made folders above this one too: remove them once this one is gone."""
    from pathlib import Path  # only here: what is rendered doesn't wait for these
    from subprocess import DEVNULL, Popen

    here, depth = Path.cwd(), len(Path(slug).parts) - 1
    if depth > 0:  # from outside: Windows removes no folder that a process is in
        words = [sys.executable, "-c", LATER, str(here), *map(str, here.parents[:depth])]
        Popen(words, cwd=here.parents[depth], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)


# For consoles that can't show what was typed.
sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
if not RENDERED.startswith("{"):  # Before 2.6, hooks know other delimiters.
    sys.exit("cookiecutter is too old, 2.6 is needed: pip install --upgrade 'cookiecutter>=2.6'")
answers = json.loads(RENDERED)
lengths = dict(zip(sorted(answers), map(int, LENGTHS.split()), strict=True))
slug, package = str(answers["service_slug"]), answers["package_name"]
marks = answers["_jinja2_env_vars"]  # The template's twin for Windows has others.
begins = "|".join(re.escape(marks[name]) for name in marks if not name.endswith("_end_string"))
quoted = rf"{marks['variable_start_string']} '\g<0>' {marks['variable_end_string']}"
# What follows from another answer isn't blamed for it as well, and comes by itself the next time.
follows = {"package_name": slug.replace("-", "_") if slug != "-" else slug, "__user_key": package}
follows |= {"vhost": f"/{package}", "input_queue": f"{package}_input"}
bad: dict[str, str] = {"service_name": ""} if slug == "-" else {}
again = ["--checkout", answers["_checkout"]] if answers.get("_checkout") else []
again = ["cookiecutter", *again, str(answers.get("_template"))]
asked = [name for name in answers if not name.startswith("_")]
for name in dict.fromkeys(["service_slug", "package_name", "__user_key", *asked]):
    text, derived = answers[name], answers[name] == follows.get(name)
    # In a user's own defaults, YAML may say null or true.
    problem = trouble(name, text) if isinstance(text, str) else "isn't text: put it in quotes"
    if not problem and len(text) != lengths[name]:
        problem = "has a character in two halves: write it whole"
    if problem:
        blameless = derived and bad.keys() & {"service_slug", "package_name"}
        bad[name] = "" if blameless else f"{name} {reprlib.repr(text)} {problem}."
    elif not derived and name not in bad:  # as data, for what is typed there gets rendered
        again += [name + "=" + re.sub(begins, quoted, text)]
made = [name for name in answers if name.startswith("__") and isinstance(answers[name], str)]
for name in () if bad else made:  # where somebody has edited a replay file, which has these, too
    if problem := trouble(name, answers[name]):
        bad[name] = f"{name} {reprlib.repr(answers[name])} {problem}."
if bad:
    print(*filter(None, bad.values()), sep="\n", file=sys.stderr, flush=True)
    print(f"Again, with all that was good: {shlex.join(again)}" if "_repo_dir" in answers else "")
    remove_parents_later(slug)
    sys.exit(1)
