"""A plan's target becomes a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Job, Plan
from roadtrain.trainer.task import make_task

SOURCE = """
from roadtrain.recipes.xor_task import Task

def make(plan, *, noise: float = 0.25):
    return Task(plan.job.seed, noise)

def number(plan):
    return 3

def half(plan):
    class Half:
        build = batch = loss = None
    return Half()

def wrong(plan):
    raise ValueError("its own mistake")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "some_job.py").write_text(SOURCE)
    return tmp_path / "some_job.py"


def plan_for(target: str, **settings: float) -> Plan:
    return Plan(job=Job(target=target, seed=5), settings=settings)


def test_a_job_is_made_with_the_plan_and_its_settings(file: Path) -> None:
    from roadtrain.recipes import xor_task

    task = make_task(plan_for(f"{file}:make"))
    assert (task._seed, task._label_noise) == (5, 0.25)  # type: ignore[attr-defined]
    assert make_task(plan_for(f"{file}:make", noise=0.5))._label_noise == 0.5  # type: ignore[attr-defined]
    assert isinstance(make_task(plan_for("xor")), xor_task.Task)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("number", "some_job.py:number made a int, which is no task"),
        ("half", "made a Half, which is no task (it has no tokens_per_sample, __len__, validate, sample)"),
    ],
)
def test_what_is_no_task_is_refused_with_what_it_lacks(file: Path, function: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_task(plan_for(f"{file}:{function}"))
    assert part in refused.value.line()


def test_a_mistake_inside_a_job_is_its_own(file: Path) -> None:
    with pytest.raises(ValueError, match="its own mistake"):
        make_task(plan_for(f"{file}:wrong"))


@pytest.mark.parametrize(("target", "part"), [("", "makes no task"), ("gptt", "unknown recipe")])
def test_what_names_no_task_is_refused(target: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        make_task(plan_for(target))


def test_a_script_makes_no_task(file: Path) -> None:
    with pytest.raises(UsageError, match="makes no task"):
        make_task(plan_for(str(file)))
