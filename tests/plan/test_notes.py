"""What is said of a plan before its run begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roadtrain.plan import Codec, Place, Plan, Sync, notes_on


@pytest.mark.parametrize(
    ("name", "steps", "momentum", "said"),
    [
        ("diloco:10", 400, None, True),
        ("streaming:10", 400, None, True),
        ("async-diloco:50", 400, None, True),
        ("diloco:50", 5000, None, False),
        ("diloco:10", 400, 0.0, False),
        ("localsgd:10", 400, None, False),
        ("ssgd", 400, None, False),
    ],
)
def test_an_outer_optimizer_that_only_averages_is_said(
    name: str, steps: int, momentum: float | None, said: bool
) -> None:
    plan = Plan()
    sync = replace(plan.sync, strategy=name, outer_momentum=momentum)
    notes = notes_on(replace(plan, job=replace(plan.job, steps=steps), sync=sync))
    assert len(notes) == int(said)
    assert not said or (notes[0].startswith(f"{name} averages plainly") and "\n" not in notes[0])


@pytest.mark.parametrize(
    ("workers", "sync", "codec", "said"),
    [
        (1, "localsgd:10", Codec(up="int8"), "with one worker int8 saves no bytes"),
        (1, "asgd", Codec(down="fp16"), "with one worker fp16 saves no bytes"),
        (1, "ssgd", Codec(up="int8"), ""),
        (1, "localsgd:10", Codec(), ""),
        (2, "localsgd:10", Codec(up="int8"), ""),
    ],
)
def test_a_codec_of_one_worker_is_said_where_it_encodes(workers: int, sync: str, codec: Codec, said: str) -> None:
    plan = replace(Plan(), place=Place(workers=workers), sync=Sync(strategy=sync), codec=codec)
    notes = notes_on(plan)
    assert [note.startswith(said) for note in notes] == [True] * bool(said)
