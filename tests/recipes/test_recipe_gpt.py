from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from roadtrain.errors import UsageError
from roadtrain.plan import Job, Plan, check
from roadtrain.recipes import gpt
from roadtrain.recipes.corpus import from_files, is_held_out, standard_library
from roadtrain.recipes.gpt_task import Task
from roadtrain.recipes.transformer import Transformer

CONTEXT = 16


def files_of(*texts: bytes, folder: Path) -> tuple[Path, ...]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    return tuple(paths)


def made(*data: Path, context: int = CONTEXT) -> Task:
    return gpt.make(Plan(), layers=2, width=32, heads=4, context=context, data=data)


def refusal(**settings: Any) -> str:
    with pytest.raises(UsageError) as refused:
        check(Plan(job=Job(target="gpt"), settings=settings))
    return refused.value.line()


def test_the_default_corpus_is_the_standard_library_in_two_disjoint_parts() -> None:
    corpus = standard_library()
    train, held_out = (bytes(part.numpy()) for part in (corpus.train, corpus.held_out))
    assert 8e6 < len(train) + len(held_out) < 14e6
    assert 0.02 < len(held_out) / len(train) < 0.1
    assert train.count(b"\ndef ") > 2_000
    source = Path(ast.__file__).read_bytes()
    assert (source in train, source in held_out) == (not is_held_out("ast.py"), is_held_out("ast.py"))
    ast.parse(source)


def test_the_same_files_are_held_out_on_every_machine() -> None:
    names = [f"package/module_{number}.py" for number in range(10_000)]
    assert 0.04 < sum(map(is_held_out, names)) / len(names) < 0.06
    assert [number for number in range(60) if is_held_out(names[number])] == [14, 28, 59]


def test_files_are_read_one_after_the_other_and_their_end_is_held_out(tmp_path: Path) -> None:
    text = bytes(range(200)) * 5
    corpus = from_files(files_of(text[:300], text[300:], folder=tmp_path), CONTEXT)
    assert bytes(corpus.train.numpy()) == text[:950]
    assert bytes(corpus.held_out.numpy()) == text[950:]


def test_windows_overlap_by_the_one_byte_that_is_predicted(tmp_path: Path) -> None:
    task = made(*files_of(bytes(range(200)), folder=tmp_path))
    (windows,) = task.batch(torch.arange(len(task)))
    assert len(task) == (200 - 17 - 1) // 16
    assert windows.shape == (len(task), 17)
    assert windows.dtype == torch.int64
    assert windows[:, :-1].flatten().tolist() == list(range(16 * len(task)))
    assert windows[:-1, -1].tolist() == windows[1:, 0].tolist()


def test_validation_reads_the_held_out_text_alone(tmp_path: Path) -> None:
    task = made(*files_of(b"a" * 950 + b"b" * 50, folder=tmp_path))
    model = task.build()
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.validate(model)
    assert set(torch.cat(seen).flatten().tolist()) == {ord("b")}


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    assert len(made(*files_of(b"x" * 34, folder=tmp_path))) == 1
    (short,) = files_of(b"x" * 33, folder=tmp_path)
    assert "--data has 33 bytes, and --context 16 needs at least 34" in refusal(data=(str(short),), context=16)


def test_a_data_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        made(tmp_path / "none.txt")


def test_a_context_longer_than_the_text_is_refused() -> None:
    with pytest.raises(UsageError, match="--context"):
        made(context=10**8)


@pytest.mark.parametrize("name", ["layers", "width", "heads", "context"])
def test_a_model_has_one_of_everything_or_more(name: str) -> None:
    assert f"--{name} must be at least 1; it is 0" in refusal(**{name: 0})


def test_heads_divide_the_width() -> None:
    assert "--heads 3 does not divide --width 100" in refusal(width=100, heads=3)


def test_data_files_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    good, empty = files_of(b"text" * 100, b"", folder=tmp_path)
    check(Plan(job=Job(target="gpt"), settings={"data": (str(good),)}))
    assert f"there is no data file {tmp_path / 'nowhere.txt'}" in refusal(
        data=(str(good), str(tmp_path / "nowhere.txt"))
    )
    assert f"{empty} is empty" in refusal(data=(str(empty),))
    assert f"{tmp_path} is not a file" in refusal(data=(str(tmp_path),))
    assert "cannot be read" in refusal(data=(str(good / "below"),))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(data=(str(tmp_path / "pipe"),))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_data_without_permission(tmp_path: Path) -> None:
    (locked,) = files_of(b"text", folder=tmp_path)
    locked.chmod(0)
    assert "cannot be read" in refusal(data=(str(locked),))


@pytest.mark.parametrize(("width", "heads"), [(32, 4), (9, 3), (4, 4)])
def test_no_prediction_depends_on_a_later_byte(width: int, heads: int) -> None:
    torch.manual_seed(0)
    model = Transformer(2, width, heads)
    tokens = torch.randint(256, (2, 12))
    other = tokens.clone()
    other[:, 8:] = torch.randint(256, (2, 4))
    torch.testing.assert_close(model(tokens)[:, :8], model(other)[:, :8])
    assert not torch.allclose(model(tokens)[:, 8:], model(other)[:, 8:])


def test_positions_matter() -> None:
    torch.manual_seed(0)
    model = Transformer(2, 32, 4)
    there, back = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(there[0, -1], back[0, -1])


def test_a_text_sample_repeats_and_is_text(tmp_path: Path) -> None:
    task = made(*files_of(b"hello " * 40, folder=tmp_path))
    model = task.build()
    sample = task.sample(model)
    assert sample is not None
    assert len(sample) >= 100
    assert sample == task.sample(model)
    assert task.sample(model.double()) is not None
