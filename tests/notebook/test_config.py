"""Settings as variables and keywords of other frameworks spell them."""

from __future__ import annotations

import pytest

import roadtrain as rt


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch):
    for name, text in {"WORLD_SIZE": "4", "TENSOR_PARALLEL": "1", "DATA_PARALLEL": "No", "LEARNING_RATE": "3"}.items():
        monkeypatch.setenv(name, text)
    found = rt.DistributedConfig.from_env()
    assert (found.world_size, found.num_workers, found.rank) == (4, 4, 0)
    assert (found.tensor_parallel, found.data_parallel, found.learning_rate) == (True, False, 3.0)


@pytest.mark.parametrize(
    ("name", "text"), [("MICRO_BATCHES", "lots"), ("WORLD_SIZE", "0"), ("USE_AMP", "perhaps"), ("LEARNING_RATE", "nan")]
)
def test_a_bad_value_is_named_by_its_variable(name: str, text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, text)
    with pytest.raises(rt.UsageError, match=name):
        rt.DistributedConfig.from_env()


def test_keywords_are_checked_and_unknown_ones_kept():
    found = rt.DistributedConfig(vocab_size=100, master_ip="10.0.0.1", learning_rate=1, num_workers=3)
    assert (found.vocab_size, found.master_addr, found.learning_rate) == (100, "10.0.0.1", 1.0)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(rt.UsageError, match="micro_batches"):
        rt.DistributedConfig(micro_batches="4")


def test_it_adapts_to_gpus():
    found = rt.DistributedConfig(tensor_parallel=True, tensor_parallel_size=2).adapt_to_gpus(3)
    assert (found.num_workers, found.tensor_parallel, found.data_parallel) == (3, False, True)
    assert rt.DistributedConfig(pipeline_parallel=True).adapt_to_gpus(0).num_workers == 1
