"""A batch comes out as it went in, and nothing that is no batch comes out at all."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.batches.tree import DTYPES, RAW, pack, pack_failure, unpack
from roadtrain.batches.work import BadSample, Made, Work, decode_work, encode_work
from roadtrain.codec.packet import Packet
from roadtrain.errors import PacketError, UsageError


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        same_kind = isinstance(b, torch.Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return same_kind and bytes(a.reshape(-1).view(torch.uint8).numpy()) == bytes(
            b.reshape(-1).view(torch.uint8).numpy()
        )
    if isinstance(a, numpy.ndarray):
        return isinstance(b, numpy.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    size = int(numpy.prod(shape, dtype=int)) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    return (torch.frombuffer(raw, dtype=dtype) if size else torch.empty(0, dtype=dtype)).reshape(shape)


plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text() | st.binary()
arrays = st.lists(st.integers(-5, 5), max_size=4).map(lambda items: numpy.array(items, dtype="int16"))
batches = st.recursive(
    tensors() | arrays | plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(batches.filter(lambda batch: batch is not None))
def test_a_batch_comes_out_as_it_went_in(batch: Any) -> None:
    bad = (BadSample(7, "ValueError: no"),)
    made = unpack(*pack(Made(batch, 3, bad)), "f1")
    assert same(made.batch, batch)
    assert (made.samples, made.bad, made.by) == (3, bad, "f1")


def test_what_is_not_contiguous_travels_too() -> None:
    batch = torch.arange(12).reshape(3, 4).T
    assert torch.equal(unpack(*pack(Made(batch, 4)), "f0").batch, batch)


def test_numbers_that_are_conjugated_later_travel_as_what_they_are() -> None:
    conjugated = torch.tensor([1 + 2j, 3 - 4j]).conj()
    for batch in (conjugated, conjugated.imag):
        assert unpack(*pack(Made(batch, 2)), "f0").batch.tolist() == batch.tolist()


def test_other_mappings_come_out_as_tables() -> None:
    from collections import OrderedDict, UserDict

    for mapping in (OrderedDict(a=torch.ones(2)), UserDict(a=torch.ones(2))):
        assert torch.equal(unpack(*pack(Made(mapping, 2)), "f0").batch["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ({"x": [object()]}, "the batch['x'][0] is a object"),
        ({(1, 2): 3}, "the batch has keys"),
        (torch.ones(2, 2).to_sparse(), "the batch is a torch.sparse_coo tensor"),
        ([numpy.array(["a", None], dtype=object)], "the batch[0] is an array of object"),
    ],
)
def test_what_cannot_travel_is_named(batch: Any, where: str) -> None:
    with pytest.raises(UsageError, match="cannot travel") as caught:
        pack(Made(batch, 1))
    assert caught.value.message.startswith(where)


def test_a_failure_is_told() -> None:
    with pytest.raises(PacketError, match="no dataset here"):
        unpack(pack_failure("no dataset here"), (), "f0")


@given(st.binary(max_size=60))
def test_bytes_that_are_none_are_refused(raw: bytes) -> None:
    with pytest.raises(PacketError):
        unpack(raw, (), "f0")


@given(st.integers(0, 40), st.integers(0, 3))
def test_parts_that_do_not_fit_are_refused(size: int, packets: int) -> None:
    head, right = pack(Made((torch.ones(5), torch.ones(3, dtype=torch.int8)), 1))
    part = torch.zeros(size, dtype=torch.uint8)
    wrong = (Packet(RAW, "uint8", size, (part,)),) * packets
    if [p.nbytes for p in wrong] != [p.nbytes for p in right]:
        with pytest.raises(PacketError):
            unpack(head, wrong, "f0")


def test_works_travel() -> None:
    work = Work("task", bytes(16), 2**63 - 1)
    assert decode_work(encode_work(work)) == work
    assert work.samples == 2


@given(st.binary(max_size=40))
def test_bytes_that_are_no_work_are_refused(raw: bytes) -> None:
    with contextlib.suppress(PacketError):
        assert decode_work(raw).samples >= 0


def test_a_work_of_part_of_a_number_is_refused() -> None:
    with pytest.raises(PacketError, match=r"1\.5 samples"):
        decode_work(encode_work(Work("task", bytes(12), 0)))


def test_a_single_number_that_was_cut_out_of_many_travels() -> None:
    """Its stride is whatever it was."""
    number = torch.arange(30.0).reshape(5, 6)[3:4, 2]
    assert number.stride() != (1,)
    found = unpack(*pack(Made(number, 1)), "f0")
    assert torch.equal(found.batch, number)
