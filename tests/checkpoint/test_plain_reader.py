"""A checkpoint from another machine runs nothing and reads nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from roadtrain.checkpoint.plain_reader import PlainReader
from roadtrain.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = {"a": {"b": torch.arange(4.0), "c": torch.tensor(3, dtype=torch.int64)}, "h": torch.ones(2, 3).bfloat16()}
    save(made, checkpoint_id=tmp_path, no_dist=True)
    return tmp_path


def test_it_reads_what_torch_reads(folder: Path) -> None:
    mine, torchs = PlainReader(folder).read_metadata(), FileSystemReader(folder).read_metadata()
    assert mine.state_dict_metadata == torchs.state_dict_metadata
    into = {"a": {"b": torch.zeros(4)}}
    load(into, storage_reader=PlainReader(folder), no_dist=True)
    assert torch.equal(into["a"]["b"], torch.arange(4.0))


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("what", ["code", "noise", "another value", "elsewhere"])
def test_what_is_no_description_is_refused(folder: Path, what: str) -> None:
    mark, file = folder / "mark", folder / ".metadata"
    match what:
        case "code":
            file.write_bytes(pickle.dumps(Evil(mark)))
        case "noise":
            file.write_bytes(b"\x80\x04noise")
        case "another value":
            file.write_bytes(pickle.dumps({"a": 1}))
        case _:
            found = FileSystemReader(folder).read_metadata()
            assert found.storage_data is not None
            for info in found.storage_data.values():
                info.relative_path = "../" + info.relative_path
            file.write_bytes(pickle.dumps(found))
    with pytest.raises(UsageError):
        PlainReader(folder).read_metadata()
    assert not mark.exists()
