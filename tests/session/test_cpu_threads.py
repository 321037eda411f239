"""The number of kernel threads is set for one calling thread, not for the process."""

import threading

import pytest
import torch

from roadtrain.session.cpu_threads import use_threads


def in_a_thread(count: int | None) -> int:
    """What a new thread finds, or what it has set."""
    found: list[int] = []

    def look() -> None:
        if count is not None:
            use_threads(count)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(
    "OpenMP" not in torch.__config__.parallel_info().splitlines()[-1], reason="this torch has no OpenMP"
)
def test_other_threads_keep_theirs() -> None:
    common = torch.get_num_threads()
    assert in_a_thread(common + 2) == common + 2
    assert torch.get_num_threads() == common
    assert in_a_thread(None) == in_a_thread(1) * common
