from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Plugin, absolute
from roadtrain.plan.plugin import split


@pytest.mark.parametrize(
    ("chain", "links"),
    [
        ("int8", ["int8"]),
        ("topk:0.01 + int8", ["topk:0.01", "int8"]),
        ("int8+", ["int8", ""]),
        ("a.py:C", ["a.py:C"]),
        ("topk:0.01+a.py:C", ["topk:0.01", "a.py:C"]),
        ("powersgd:4:128 + /x/a+b.py:C", ["powersgd:4:128", "/x/a+b.py:C"]),
        ("a+b.py:C", ["a+b.py:C"]),
        ("topk:0.5+topk:1e-05+./c++/a.py:C", ["topk:0.5", "topk:1e-05", "./c++/a.py:C"]),
    ],
)
def test_a_plus_in_a_path_is_no_link(chain: str, links: list[str]) -> None:
    assert split(chain) == links


def test_a_file_is_named_so_that_every_folder_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("my.py:C") == f"{tmp_path}/my.py:C"
    assert absolute("topk:0.1+sub/my.py:C") == f"topk:0.1+{tmp_path}/sub/my.py:C"
    assert absolute(absolute("my.py:C")) == absolute("my.py:C")
    for other in ("", "int8", "topk:0.1+int8", "diloco:20", "topk : 1"):
        assert absolute(other) == other


def test_only_a_python_file_is_meant() -> None:
    assert Plugin.parse("a/my.py:Mine") == Plugin(Path("a/my.py"), "Mine")
    for other in ("int8", "topk:0.1", "my.python:C", "", "happy"):
        assert Plugin.parse(other) is None
    for wrong in ("my.py", "my.py:", "my.py:1", ".py:C"):
        with pytest.raises(UsageError, match="names no class"):
            Plugin.parse(wrong)


def test_what_runs_is_what_is_hashed(tmp_path: Path) -> None:
    """No bytecode of an older file, none left beside it."""
    file = tmp_path / "my.py"
    seen: set[tuple[int, str]] = set()
    for value in (1, 2):
        file.write_text(f"class C:\n    value = {value}\n")
        cls, digest = Plugin(file, "C").load()
        seen.add((vars(cls)["value"], digest))
    assert {value for value, _ in seen} == {1, 2}
    assert len({digest for _, digest in seen}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["my.py"]


def test_a_file_may_hold_dataclasses(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    a: int = 3\n"
    )
    (tmp_path / "my.py").write_text(text)
    assert Plugin(tmp_path / "my.py", "C").load()[0]().a == 3
