"""The template's twin for Windows renders the same to the byte, and none of its names is refused there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from baked import (
    SECRETS,
    TEMPLATE,
    BakedProject,
    bake_into,
    command_line,
    copy_template,
    load,
)  # fmt: skip
from conftest import Count
from jinja2 import Environment
from provisioning import COOKIE
from test_stamp import git

TWIN = load("twin", TEMPLATE / "scripts" / "twin.py")
#: Texts with the delimiters of both, which are only texts.
MARKED = "<< @{ a }@ @% if %@ <% else %> @# #@ <# #> #% {{ [[ @@{ @{{ }@@ >> ${{ x }} {% %} {#"
ANSWERS = {
    "defaults": {},
    "mit": {"license": "MIT", "python_version": "3.10", "service_name": "Weather Bot 2"},
    "proprietary": {"license": "Proprietary", "author_name": "Ada \u2019 \u041c\u0438\u0440 \u6c14"},
    "longest": {
        "service_name": 300 * "x", "service_slug": 63 * "s", "package_name": 63 * "p",
        "vhost": "/" + 254 * "v", "input_queue": 216 * "q", "description": 2000 * "d",
    },
    "marked": {"description": MARKED, "author_name": MARKED, "service_name": f"Neon {MARKED}"},
    "quoted": {"description": "\"'`\\ \\n $HOME \U0001f680", "author_email": "a\"b@x.org"},
}  # fmt: skip
#: What names on NTFS, as Windows' own functions see it, may neither hold nor end in nor be.
REFUSED = re.compile(
    r'[<>:"/\\|?*\0-\x1f]|[. ]$|^(aux|con|nul|prn|conin\$|conout\$|(com|lpt)[0-9\xb9\xb2\xb3])(\.|$)',
    re.IGNORECASE,
)
#: Characters that a path has on Windows without further ado.
LONGEST_PATH = 259


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release carries: the twin, in a zip archive."""
    into = tmp_path_factory.mktemp("twin")
    words = ["--into", str(into), "--template", str(TEMPLATE)]
    subprocess.run([sys.executable, "-B", TWIN.__file__, *words], check=True)
    made: Path = into / f"{TWIN.NAME}.zip"
    return made


@pytest.fixture(scope="module")
def twin(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as it is unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    made: Path = folder / TWIN.NAME
    return made


def content(project: BakedProject) -> dict[str, object]:
    """All files but the connector's caches; of those of the machine what is neither drawn nor the folder's."""
    found: dict[str, object] = {}
    for name in sorted(project.files()):
        raw = re.sub(
            rb"(?m)^(COMPOSE_PROJECT_NAME=.*-)[0-9a-f]{6}$", rb"\1", (project / name).read_bytes()
        )
        drawn = name in SECRETS and name.endswith(".json")
        found[name] = json.loads(raw, object_hook=without_secrets) if drawn else raw
        if name == COOKIE:
            found[name] = len(raw)
    return found


def without_secrets(entry: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in entry.items() if not name.startswith("password")}


@pytest.mark.slow  # renders both for each
@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS.keys())
def test_the_twin_makes_the_same_but_for_the_passwords(
    tmp_path: Path,
    twin: Path,
    answers: dict[str, str],
    record_property: Count,
) -> None:
    record_property("pairs rendered", 1)
    original = bake_into(tmp_path / "original", answers, typed=True)
    made = bake_into(tmp_path / "made", answers, template=twin, typed=True)
    assert content(made) == content(original)
    for name in original.files():
        assert (made / name).stat().st_mode & 0o777 == (original / name).stat().st_mode & 0o777
    note = json.loads(made.read(".template.json"))
    assert note["template"] == str(TEMPLATE) and not names_refused(made.path)


def names_refused(folder: Path) -> list[str]:
    """Paths below a folder that Windows refuses, or takes for others."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    bad = [path for path in paths if any(map(REFUSED.search, path.split("/")))]
    folded = [path.casefold() for path in paths]
    return bad + [path for path in paths if folded.count(path.casefold()) > 1]


def test_no_name_in_the_archive_is_refused_on_windows(archive: Path, twin: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    assert names[0] == f"{TWIN.NAME}/", "cookiecutter wants one folder, and it first"
    assert len(names) > 100 and names_refused(twin.parent) == []
    # Below C:\Users\<twenty characters>\AppData\Local\Temp\<twenty>\.
    assert max(map(len, names)) + 75 <= LONGEST_PATH


@pytest.mark.parametrize("name", ["a<b", "a|b", "nul", "Com1.txt", "x.", "x ", "a?", "LPT\xb2"])
def test_a_name_that_windows_refuses_would_be_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert names_refused(tmp_path) == [name]


def test_names_that_differ_by_case_alone_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("")
    (tmp_path / "readme").write_text("")
    assert sorted(names_refused(tmp_path)) == ["README", "readme"]


def test_paths_of_the_longest_names_fit_windows(bake_longest: BakedProject) -> None:
    """In a folder of up to 50 characters, with the bytecode that Python puts beside."""
    longest = max(map(len, bake_longest.files())) + len(f"{63 * 's'}/__pycache__/.cpython-313")
    assert longest + 50 <= LONGEST_PATH


@pytest.fixture
def bake_longest(tmp_path: Path) -> BakedProject:
    return bake_into(tmp_path, ANSWERS["longest"])


def test_the_archive_is_taken_as_it_is(tmp_path: Path, archive: Path) -> None:
    done = command_line(tmp_path / "out", template=archive)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "neon-echo" / "mq_config.json").is_file()


def test_a_refusal_of_the_twin_asks_again_under_its_own_delimiters(
    tmp_path: Path, archive: Path
) -> None:
    words = ["service_slug=Neon", "description=@{ '@{' }@ a }@ @{ '@%' }@ << {{"]
    done = command_line(tmp_path / "out", *words, template=archive)
    assert done.returncode and "service_slug 'Neon' can't name a folder" in done.stderr
    again = next(line for line in done.stdout.splitlines() if line.startswith("Again, "))
    assert "'description=@{ '\"'\"'@{'\"'\"' }@ a }@ @{ '\"'\"'@%'\"'\"' }@ << {{'" in again
    assert not [*(tmp_path / "out").iterdir()]


def test_the_same_sources_give_the_same_archive(tmp_path: Path, archive: Path) -> None:
    made = TWIN.build(tmp_path, str(TEMPLATE))
    assert TWIN.archive(made).read_bytes() == archive.read_bytes()
    stale = made / "left"
    stale.write_text("")
    TWIN.build(tmp_path, str(TEMPLATE))
    assert not stale.exists()


def test_it_names_the_commit_that_it_was_made_of(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    git(template, "init", "-q")
    git(template, "add", "-A")
    git(template, "commit", "-q", "-m", "x")
    words = [
        sys.executable,
        "-B",
        "scripts/twin.py",
        "--into",
        str(tmp_path),
        "--template",
        "https://x.org/t",
    ]
    subprocess.run(words, cwd=template, check=True)
    project = bake_into(tmp_path / "out", template=tmp_path / TWIN.NAME)
    note = json.loads(project.read(".template.json"))
    assert note["template"] == "https://x.org/t"
    assert note["commit"] == git(template, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("<< a >>", "@{ a }@"),
        ("<% if a %>x<% endif %><# n #>", "@% if a %@x@% endif %@@# n #@"),
        ("@{<< a >>@%@#", "@{ '@{' }@@{ a }@@{ '@%' }@@{ '@#' }@"),
        ("@<< a >>@<% set b %>@<# n #>@<% endset %>", "@{ '@' }@@{ a }@@{ '@' }@@% set b %@@{ '@' }@@# n #@@{ '@' }@@% endset %@"),
        ("${{ x }} << '<<' >> #% y", "${{ x }} @{ '<<' }@ #% y"),
        ("a\n#% if a\nb\n#% endif\n", "a\n#% if a\nb\n#% endif\n"),
        ("<< {'a': (1)} >>", "@{ {'a': (1)} }@"),
    ],
)  # fmt: skip
def test_a_text_is_translated_token_by_token(source: str, made: str) -> None:
    settings = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))["_jinja2_env_vars"]
    assert TWIN.Translator(settings).text(source) == made
    original, other = Environment(**settings), Environment(**{**settings, **TWIN.DELIMITERS})
    assert other.from_string(made).render(a=1) == original.from_string(source).render(a=1)


def test_the_release_carries_the_archive_that_the_readme_names() -> None:
    archive = f"{TWIN.NAME}.zip"
    address = (
        f"cookiecutter https://github.com/org/neon-mq-template/releases/latest/download/{archive}"
    )
    assert f"`{address}`" in (TEMPLATE / "README.md").read_text("utf-8")
    for name in (".github/workflows/release.yml", ".github/workflows/ci.yml", "docs/releasing.md"):
        text = (TEMPLATE / name).read_text("utf-8")
        assert "make twin" in text and f".cache/twin/{archive}" in text, name
    made = subprocess.run(
        ["make", "--dry-run", "twin", "ADDRESS=https://x.org/t"],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
    )
    assert "scripts/twin.py --template 'https://x.org/t'" in made.stdout, made.stderr
