"""Copies between a device and the host. Where there is no accelerator, a copy is a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from roadtrain.session import host_copies
from roadtrain.session.host_copies import RING, HostCopies, done
from roadtrain.sync.fragment import Fragment, Piece

FRAGMENT = Fragment((Piece("a", 1, 4), Piece("b", 0, 2)), torch.float32)


def test_on_a_cpu_a_copy_is_done_when_it_is_asked_for() -> None:
    copies = HostCopies(torch.device("cpu"), 64)
    out = copies.host_buffer(5, torch.float32)
    ready = copies.gather(FRAGMENT, {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([7.0, 8.0])}, out)
    assert ready is done
    assert out.tolist() == [1, 2, 3, 7, 8]
    assert copies.to_device(out) is out


class Accelerator:
    """What torch has for a kind of device, with a list of what was asked for. `meta` tensors stand for those on the device."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.current = "training"

    def Stream(self, device: torch.device) -> Any:  # noqa: N802
        return self._Stream(self, "side")

    def current_stream(self, device: torch.device) -> Any:
        return self._Stream(self, "training")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def Event(self) -> Any:  # noqa: N802
        return self._Event(self)

    class _Stream:
        def __init__(self, of: Accelerator, name: str) -> None:
            self._of, self.name = of, name

        def wait_stream(self, other: Any) -> None:
            self._of.asked.append(f"{self.name} waits for {other.name}")

    class _Event:
        def __init__(self, of: Accelerator) -> None:
            self._of = of

        def record(self, stream: Any) -> None:
            self._of.asked.append(f"mark on {stream.name}")

        def synchronize(self) -> None:
            self._of.asked.append("host waits for a mark")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    found, empty, zeros = Accelerator(), torch.empty, torch.zeros
    monkeypatch.setattr(host_copies, "STREAMS", ("meta",))
    monkeypatch.setattr(torch, "get_device_module", lambda device: found)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    monkeypatch.setattr(torch, "zeros", lambda *a, pin_memory=False, **k: zeros(*a, **k))

    def kept(tensor: Tensor, stream: Any) -> None:
        found.asked.append(f"memory is kept for {stream.name}")

    monkeypatch.setattr(Tensor, "record_stream", kept)
    monkeypatch.setattr(
        Tensor,
        "to",
        lambda tensor, device, non_blocking: found.asked.append(f"copy in on {found.current}") or tensor.clone(),
    )
    monkeypatch.setattr(Tensor, "copy_", copying(found, Tensor.copy_))
    return found


def copying(found: Accelerator, copy: Any) -> Any:
    def copied(out: Tensor, value: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            found.asked.append(f"copy out on {found.current}")
            return out
        return copy(out, value)

    return copied


def test_what_goes_out_is_copied_beside_the_training_and_only_who_needs_it_waits(accelerator: Accelerator) -> None:
    copies = HostCopies(torch.device("meta"), 64)
    on_device = {name: torch.ones(6, device="meta") for name in "ab"}
    ready = copies.gather(FRAGMENT, on_device, copies.host_buffer(5, torch.float32))
    assert accelerator.asked == [
        "side waits for training",
        "copy out on side",
        "memory is kept for side",
        "memory is kept for side",
        "mark on side",
    ]
    ready()
    assert accelerator.asked[-1] == "host waits for a mark"


def test_what_comes_in_waits_for_the_copy_of_three_before_alone(accelerator: Accelerator) -> None:
    copies = HostCopies(torch.device("meta"), 64)
    for number in range(RING):
        assert copies.to_device(torch.full((4,), float(number))).tolist() == [number] * 4
    assert "host waits for a mark" not in accelerator.asked
    assert accelerator.asked[:4] == [
        "copy in on side",
        "mark on side",
        "training waits for side",
        "memory is kept for training",
    ]
    copies.to_device(torch.ones(4))
    assert accelerator.asked.count("host waits for a mark") == 1
