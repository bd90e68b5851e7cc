"""Made-up answers, on every way in: refused with a line for each problem, or rendered and carried whole."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import pytest
import yaml
from baked import TEMPLATE, BakedProject, bake_into, parse, patch_prompts, settings
from conftest import Count
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as how
from hypothesis import strategies as st
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

#: Pieces that mean something to one of the languages that an answer is written into, or to a terminal.
PIECES = [
    *"\"'`\\$<>{}%#&*!|@:;,=+~?/()[] \t\n\r\x00\x1b\x7f\x85\xa0",
    *("<<", ">>", "<%", "%>", "<#", "#%", "{{", "}}", "{%", "${X}", "$(x)", '"""', "'''", "\\n"),
    *(
        "’",
        "–",
        "×",
        "Ж",
        "ο",
        "ü",
        "气",
        "\U0001f680",
        "\u200d",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\ud800",
    ),
    *(
        "a",
        "Z",
        "0",
        "_",
        "-",
        ".",
        "..",
        "weather",
        "class",
        "json",
        "neon",
        "null",
        "true",
        "---",
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
#: Most are fit, so that what is rendered is looked at often enough.
FIT = st.text("abcü’–×Жο\"'\\$<>{}%# .-", min_size=1, max_size=30)
#: cookiecutter itself makes the folder before anybody can look at its name.
FOLDER = TEXT.filter(lambda text: text and not {*text} & {"\0", "\ud800"})
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "service_name": TEXT | FIT,
        "description": TEXT | FIT,
        "author_name": TEXT | FIT,
        "author_email": TEXT | FIT,
        "service_slug": st.from_regex("[a-z0-9][a-z0-9-]{0,20}", fullmatch=True) | FOLDER,
        "package_name": st.from_regex("[a-z][a-z0-9_]{0,20}", fullmatch=True) | TEXT,
        "vhost": TEXT.map(lambda text: f"/{text}") | TEXT,
        "input_queue": TEXT | FIT,
    },
)
Way = Callable[[Path, Mapping[str, str]], BakedProject]
#: How often each way ended how, for the report.
ENDS: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what was tried, below the tests."""
    yield
    manager = request.config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        for (way, end), count in sorted(ENDS.items()):
            print(f"\nmade-up answers by {way}: {count} {end}", end="")
        print()


def as_data(text: str) -> str:
    """What stands on the command line or in somebody's settings gets rendered; this comes out as typed."""
    return re.sub("<(?=[%#<])|#(?=%)", r"<< '\g<0>' >>", text) + (
        "<##>" if text.endswith("\n") else ""
    )


def by_prompts(folder: Path, answers: Mapping[str, str]) -> BakedProject:
    return bake_into(folder / "out", answers, settings_folder=folder / "s", typed=True)


def by_the_command_line(folder: Path, answers: Mapping[str, str]) -> BakedProject:
    data = {name: as_data(text) for name, text in answers.items()}
    return bake_into(folder / "out", data, settings_folder=folder / "s")


def by_settings(folder: Path, answers: Mapping[str, str]) -> BakedProject:
    data = {name: as_data(text) for name, text in answers.items()}
    config = settings(folder / "s")
    content = {**json.loads(config.read_text("utf-8")), "default_context": data}
    config.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
    path = cookiecutter(
        str(TEMPLATE), no_input=True, output_dir=str(folder / "out"), config_file=str(config)
    )
    return project_at(path, folder)


def by_replay(folder: Path, answers: Mapping[str, str]) -> BakedProject:
    """What was typed once, and kept by cookiecutter."""
    config = settings(folder / "s")
    with mock.patch("cookiecutter.main.generate_files", return_value=""), patch_prompts(answers):
        cookiecutter(str(TEMPLATE), config_file=str(config))
    path = cookiecutter(
        str(TEMPLATE), replay=True, output_dir=str(folder / "out"), config_file=str(config)
    )
    return project_at(path, folder)


def gone(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def project_at(path: str, folder: Path) -> BakedProject:
    noted = (folder / "s" / "replay" / f"{TEMPLATE.name}.json").read_text("utf-8")
    return BakedProject(Path(path), json.loads(noted)["cookiecutter"])


@pytest.mark.parametrize("way", [by_prompts, by_the_command_line, by_settings, by_replay])
@how(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[*HealthCheck],
)
@given(answers=ANSWERS)
@example(answers={"description": '"""', "author_name": "\\", "service_name": "’ – × Ж ο"})
@example(answers={"description": "\u202e", "vhost": "x", "input_queue": "", "author_email": "\x1b"})
@example(answers={"package_name": "Class", "service_slug": "../x", "author_name": "\ud800"})
def test_an_answer_is_refused_in_a_line_or_arrives_whole(
    capfd: pytest.CaptureFixture[str], way: Way, record_property: Count, answers: dict[str, str]
) -> None:
    record_property("answers tried", 1)
    name = way.__name__.replace("_", " ").removeprefix("by ")
    folder = Path(tempfile.mkdtemp(prefix="answers-"))
    (folder / "out").mkdir()
    capfd.readouterr()
    try:
        try:
            project = way(folder, answers)
        except FailedHookException:
            ENDS[name, "refused"] += 1
            said = capfd.readouterr().err.splitlines()
            assert said and all(re.fullmatch(r"\w+ .*\.", line) for line in said), said
            blamed = {line.split()[0] for line in said}
            assert len(blamed) == len(said)
            assert all(line.isprintable() for line in said)
        else:
            ENDS[name, "rendered"] += 1
            look_at(project, answers)
    finally:
        # What a refusal leaves to remove the folders of a slug with slashes may come in between.
        eventually(lambda: gone(folder))


def look_at(project: BakedProject, answers: Mapping[str, str]) -> None:
    """All files parse, and what was typed stands in the metadata and in the stamp."""
    for name in project.files():
        if "mq_connector/" not in name:
            parse(name, project.read(name))
    stamp = json.loads(project.read(".template.json"))["answers"]
    metadata = project.metadata()["project"]
    for name, text in answers.items():
        assert stamp[name] == text
    if "description" in answers:
        assert metadata["description"] == " ".join(answers["description"].split())
    if "author_name" in answers:
        assert metadata["authors"][0]["name"] == " ".join(answers["author_name"].split())


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., BakedProject]:
    """Render from a replay file that somebody has edited: it says what is derived, too, and nothing is asked."""
    config = settings(tmp_path / "s")
    with mock.patch("cookiecutter.main.generate_files", return_value=""):
        cookiecutter(str(TEMPLATE), no_input=True, config_file=str(config))
    kept = json.loads((tmp_path / "s" / "replay" / f"{TEMPLATE.name}.json").read_text("utf-8"))

    def render(**edited: str) -> BakedProject:
        replay, out = tmp_path / "edited.json", str(tmp_path / "out")
        replay.write_text(json.dumps({"cookiecutter": {**kept["cookiecutter"], **edited}}), "utf-8")
        path = cookiecutter(
            str(TEMPLATE), replay=str(replay), output_dir=out, config_file=str(config)
        )
        return BakedProject(Path(path), {**kept["cookiecutter"], **edited})

    return render


@pytest.mark.parametrize("end", ["\0", "\ud800"], ids=["nul", "half"])
@pytest.mark.parametrize(
    "name", ["author_name", "package_name", "input_queue", "license", "__class_name", "__summary"]
)
def test_what_no_file_holds_is_refused_in_a_line_from_a_replay_file_made_by_hand(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    by_hand: Callable[..., BakedProject],
    name: str,
    end: str,
) -> None:
    with pytest.raises(FailedHookException):
        by_hand(**{name: f"a{end}"})
    [said] = capfd.readouterr().err.splitlines()
    assert said.isprintable() and re.fullmatch(rf"{name} 'a\\.*\.", said)
    assert [*tmp_path.glob("out/*")] == []


@pytest.mark.parametrize("end", ["\0", "\ud800"], ids=["nul", "half"])
def test_a_folder_of_such_a_name_in_it_stops_cookiecutter_before_a_hook_runs(
    tmp_path: Path, by_hand: Callable[..., BakedProject], end: str
) -> None:
    """The limit that docs/decisions.md tells of: where this fails, there is none any more."""
    with (
        mock.patch("cookiecutter.generate.run_hook_from_repo_dir") as hook,
        pytest.raises(ValueError, match=r"null|surrogates") as caught,
    ):
        by_hand(service_slug=f"a{end}")
    assert "render_and_create_dir" in [each.name for each in caught.traceback]
    hook.assert_not_called()
    assert [*tmp_path.glob("out/*")] == []
