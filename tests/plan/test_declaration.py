"""What a job declares, read from its function."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, check, complete, declaration_of, dumps, load, parse

HEAD = """
from __future__ import annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from roadtrain.errors import UsageError
if TYPE_CHECKING:
    from nowhere import Plan
"""
Job = Callable[[str], str]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a file with this source, and gives the target of its function `make`."""

    def write(source: str) -> str:
        file = tmp_path / f"job_{abs(hash(source))}.py"
        file.write_text(HEAD + textwrap.dedent(source))
        return f"{file}:make"

    return write


EVERYTHING = """
    DEFAULTS = {"job": {"steps": 7}, "optimizer": {"lr": 1}}
    def make(
        plan: Plan,
        *,
        width_of_hidden: Annotated[int, "width of the hidden layer"] = 64,
        rate: float = 1,
        name: str = "",
        deep: Annotated[bool, "more layers"] = False,
        words: tuple[str, ...] = ("a",),
        files: tuple[Path, ...] = (),
        limit: Annotated[int | None, "largest number"] = None,
        folder: Path | None = None,
        kind: Literal["plain", "gated"] = "plain",
    ):
        return locals()
    def check(plan, settings):
        if settings["width_of_hidden"] % 2:
            raise UsageError("an odd width")
"""


def test_every_type_is_a_setting(job: Job) -> None:
    declared = declaration_of(job(EVERYTHING))
    rows = declared.settings
    assert list(rows) == ["width_of_hidden", "rate", "name", "deep", "words", "files", "limit", "folder", "kind"]
    width = rows["width_of_hidden"]
    assert (width.flag, width.variable) == ("--width-of-hidden", "ROADTRAIN_WIDTH_OF_HIDDEN")
    assert (width.kind, width.default, width.help) == (int, 64, "width of the hidden layer")
    assert (rows["rate"].kind, rows["rate"].default) == (float, 1.0)
    assert (rows["limit"].kind, rows["limit"].optional) == (int, True)
    assert rows["kind"].choices == ("plain", "gated")
    assert rows["files"].many
    assert rows["deep"].flags == ("--deep", "--no-deep")


def test_settings_come_from_every_source_and_are_what_the_function_is_given(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = job(EVERYTHING)
    file = tmp_path / "plan.toml"
    file.write_text('[settings]\nwidth_of_hidden = 2\nrate = 2\nname = "file"\n')
    environment = {
        "ROADTRAIN_WIDTH_OF_HIDDEN": "4",
        "ROADTRAIN_FILES": os.pathsep.join(["a", "/b"]),
        "ROADTRAIN_DEEP": "yes",
    }
    plan = load(target, file, environment, {("settings", "width_of_hidden"): 6, ("settings", "folder"): "here"})
    assert (plan.job.steps, plan.optimizer.lr) == (7, 1.0)
    declared = declaration_of(target)
    assert declared.make is not None
    made: Any = declared.make(plan, **declared.arguments(parse(dumps(plan))))
    assert made == {
        "plan": plan,
        "width_of_hidden": 6,
        "rate": 2.0,
        "name": "file",
        "deep": True,
        "words": ("a",),
        "files": (tmp_path / "a", Path("/b")),
        "limit": None,
        "folder": tmp_path / "here",
        "kind": "plain",
    }


def test_its_own_check_is_asked_before_anything_starts(job: Job) -> None:
    plan = load(job(EVERYTHING), None, {}, {})
    check(plan)
    with pytest.raises(UsageError, match="an odd width"):
        check(replace(plan, settings={"width_of_hidden": 3}))


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("def make(plan, *, a: int): ...", "'a' has no default"),
        ("def make(plan, *, a=1): ...", "'a' has no type"),
        ("def make(plan, *, a: list[int] = []): ...", "'a' has no type"),
        ("def make(plan, *, a: int | str = 1): ...", "'a' has no type"),
        ("def make(plan, *, a: nowhere = 1): ...", "a type cannot be read"),
        ("def make(plan, *, a: int = 'x'): ...", "'a': the default is 'x'; wanted a whole number"),
        ("def make(plan, *, a: Literal['x', 'y'] = 'z'): ...", "cannot be 'z'"),
        ("def make(): ...", "takes no plan"),
        ("def make(plan, size): ...", "wants 'size' beside the plan"),
        ("def make(plan, *, workers: int = 1): ...", "roadtrain's own --workers"),
        ("def make(plan, *, no_damping: int = 1): ...", "roadtrain's own --no-damping"),
        ("def make(plan, *, watch_keep: int = 1): ...", "roadtrain's own watch.keep"),
        ("def make(plan, *, token: str = ''): ...", "roadtrain's own ROADTRAIN_TOKEN"),
        ("def make(plan, *, resume: bool = False): ...", "roadtrain's own --resume"),
        ("def makes(plan): ...", "has no function 'make' (did you mean 'makes'?)"),
        ("make = 3", "has no function 'make' (it has no function at all)"),
        ("DEFAULTS = 3\ndef make(plan): ...", "DEFAULTS"),
        ("DEFAULTS = {'jib': {}}\ndef make(plan): ...", "there is no section 'jib'"),
        ("DEFAULTS = {'job': {'steps': 'x'}}\ndef make(plan): ...", "job.steps is 'x'"),
        ("def make(plan: ...", "is not Python"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise SystemExit(3)", "cannot be run: SystemExit: 3"),
        ("raise UsageError('too little memory')", "too little memory"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_file(job: Job, source: str, part: str) -> None:
    target = job(source)
    with pytest.raises(UsageError) as refused:
        complete({"job": {"target": target}})
    line = refused.value.line()
    assert part in line
    assert "\n" not in line
    assert target.removesuffix(":make") in line or "memory" in line


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("/nowhere/job.py:make", "there is no file /nowhere/job.py"),
        ("nowhere.at_all:make", "there is no module nowhere.at_all"),
        ("roadtrain.nowhere:make", "there is no module roadtrain.nowhere"),
        ("roadtrain.errors:make", "roadtrain.errors has no function 'make'"),
        ("/nowhere/script.py", "there is no file /nowhere/script.py"),
        ("-m nowhere.at_all", "there is no module nowhere.at_all"),
        ("-m roadtrain.plan", "there is no module roadtrain.plan"),
    ],
)
def test_what_is_not_there_is_named(target: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        declaration_of(target)
    assert part in refused.value.line()


def test_a_script_declares_nothing_and_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise AssertionError\n")
    assert not declaration_of(str(script)).settings
    assert not declaration_of("-m roadtrain").settings


def test_a_setting_of_another_recipe_is_refused_by_saying_whose_it_is(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("[settings]\nlayers = 2\n")
    for refused in (
        lambda: load("digits", file, {}, {}),
        lambda: load("digits", None, {"ROADTRAIN_LAYERS": "2"}, {}),
        lambda: check(Plan(job=replace(Plan().job, target="digits"), settings={"layers": 2})),
    ):
        with pytest.raises(UsageError, match=r"digits has no .*(layers|LAYERS)") as caught:
            refused()
        assert caught.value.hint == "it is a setting of gpt"


def test_a_misspelt_setting_is_told_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text("[settings]\nlayer = 2\n")
    with pytest.raises(UsageError, match="gpt has no 'layer'") as caught:
        load("gpt", file, {}, {})
    assert "'layers'" in caught.value.hint
    with pytest.raises(UsageError, match="ROADTRAIN_LAYER ") as caught:
        load("gpt", None, {"ROADTRAIN_LAYER": "2"}, {})
    assert "'ROADTRAIN_LAYERS'" in caught.value.hint
