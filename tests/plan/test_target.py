"""What is trained, as the person names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Target


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("gpt", "recipe", "gpt"),
        (" xor ", "recipe", "xor"),
        ("my_job.py:make", "job", "{here}/my_job.py:make"),
        ("/a/b.py:make", "job", "/a/b.py:make"),
        ("package.module:make", "job", "package.module:make"),
        ("sub/train.py", "script", "{here}/sub/train.py"),
        ("-m package.module", "module", "-m package.module"),
        ("-m  alone", "module", "-m alone"),
    ],
)
def test_a_target_means_the_same_in_every_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, kind: str, canonical: str
) -> None:
    monkeypatch.chdir(tmp_path)
    target = Target.parse(text)
    assert target.kind == kind
    assert str(target) == canonical.format(here=tmp_path)
    assert target.is_script == (kind in ("script", "module"))
    monkeypatch.chdir("/")
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gptt", "did you mean 'gpt'?"),
        ("train", "SCRIPT.py"),
        ("my_job.py:", "names no function"),
        ("my_job.py:make it", "names no function"),
        ("a/b:make", "names no module"),
        (":make", "names no module"),
        ("-m ", "names no module"),
        ("-m a..b", "names no module"),
    ],
)
def test_what_is_none_is_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        Target.parse(text)
    assert part in refused.value.line()
