"""What is said through a pipe is heard at its other end, and nothing else is."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch

from roadtrain.batches.tree import pack, unpack
from roadtrain.batches.work import Made
from roadtrain.data import pipe
from roadtrain.data.pipe import Failed, Ready, RowsReply, RowsRequest
from roadtrain.errors import PacketError


def test_what_is_said_is_heard() -> None:
    driver, worker = multiprocessing.Pipe()
    pipe.ask(driver, RowsRequest(7, 10, 3))
    assert pipe.asked(worker) == RowsRequest(7, 10, 3)
    for told in (Ready(12), Failed("it is wrong", "mend it", mistake=True)):
        pipe.tell(worker, told)
        assert pipe.hear(driver) == (told, ())
    batch = {"a": torch.arange(6).reshape(3, 2), "none": torch.empty(3, 0), "b": torch.ones(3, dtype=torch.bfloat16)}
    pipe.reply(worker, 7, *pack(Made(batch, 3)))
    told, packets = pipe.hear(driver)
    assert isinstance(told, RowsReply)
    assert told.number == 7
    found = unpack(told.head, packets, "w0")
    assert found.samples == 3
    assert all(torch.equal(found.batch[name], batch[name]) for name in batch)


def test_nothing_is_unpickled() -> None:
    driver, worker = multiprocessing.Pipe()
    worker.send_bytes(pickle.dumps(Ready(3)))
    with pytest.raises(PacketError):
        pipe.hear(driver)
    worker.close()
    with pytest.raises(EOFError):
        pipe.hear(driver)
