"""Files travel whole, and nothing in an archive leads out of its folder."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roadtrain.errors import PacketError, UsageError
from roadtrain.orchestrate.archive import check_name, pack, receive, unpack


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a = 1")
    two.write_text("b = 2")
    digest, raw = pack({"x/one.py": one, "two.py": two})
    one.touch()
    assert pack({"two.py": two, "x/one.py": one}) == (digest, raw)
    (tmp_path / "archive").write_bytes(raw)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out" / "x" / "one.py").read_text() == "a = 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "one.py", "out", "two.py"]


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone"):
        pack({"gone": tmp_path / "gone"})


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a\\b", "", "a//b", "./a", "a/\0"])
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(PacketError):
        check_name(name)
    if name and "\0" not in name:
        with zipfile.ZipFile(tmp_path / "evil", "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), "x")
        if "\\" not in name:  # which zipfile itself has made a slash of elsewhere
            with pytest.raises(PacketError):
                unpack(tmp_path / "evil", tmp_path / "out" / "deep")
            assert not (tmp_path / "out" / "deep").exists()


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    with pytest.raises(PacketError):
        unpack(tmp_path / "noise", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_comes_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    path = tmp_path / "folder" / "file"
    with pytest.raises(PacketError, match="not the one"):
        asyncio.run(receive(path, "0" * 64, stream()))
    assert list(path.parent.iterdir()) == []
    asyncio.run(receive(path, "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721", stream()))
    assert path.read_bytes() == b"abcdef"
