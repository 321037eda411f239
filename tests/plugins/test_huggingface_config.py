"""What is said of a training with transformers, and how its script is found again."""

from __future__ import annotations

import pytest
import torch

from roadtrain.errors import UsageError
from roadtrain.plugins.huggingface import MultiGPUConfig, disable_multi_gpu, get_multi_gpu_status
from roadtrain.plugins.huggingface.rerun import command


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"num_gpus": 0}, "num_gpus is 0"),
        ({"batch_size_per_gpu": None}, "batch_size_per_gpu is None"),
        ({"batch_size_per_gpu": 1.5}, "batch_size_per_gpu is 1.5"),
        ({"ddp_backend": "mpi"}, "ddp_backend is 'mpi'"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        MultiGPUConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_without_cuda_processes_meet_by_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert MultiGPUConfig(num_gpus=3).here() == MultiGPUConfig(num_gpus=3, ddp_backend="gloo")
    assert MultiGPUConfig(num_gpus=None).here().processes == 1


def test_no_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert MultiGPUConfig(num_gpus=None).here() == MultiGPUConfig(num_gpus=2)
    with pytest.raises(UsageError, match="num_gpus is 3, and there are 2 CUDA devices"):
        MultiGPUConfig(num_gpus=3).here()


def test_a_run_is_told_how_to_agree() -> None:
    assert MultiGPUConfig(num_gpus=4).words == ["--workers", "4"]
    told = MultiGPUConfig(sync="diloco:50", codec="int8").words
    assert told == ["--workers", "2", "--sync", "diloco:50", "--codec", "int8"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("python train.py --epochs 3", ([], ["train.py", "--epochs", "3"])),
        ("python -u -W ignore train.py -m x", (["-u", "-W", "ignore"], ["train.py", "-m", "x"])),
        ("python -X dev -m package.train -c 1", (["-X", "dev"], ["-m", "package.train", "-c", "1"])),
        ("python -c code", None),
        ("python -", None),
        ("python", None),
        ("python -i train.py", None),
    ],
)
def test_the_script_with_its_words(words: str, found: object) -> None:
    assert command(words.split()) == found


def test_status_where_nothing_is_enabled() -> None:
    disable_multi_gpu()
    status = get_multi_gpu_status()
    assert (status["enabled"], status["num_gpus"], status["active_config"]) == (False, 1, None)
