"""The trained model on disk, read back by those who did not write it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from roadtrain.checkpoint.export import export


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tied_tensors_are_written_once(tmp_path: Path):
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    export(model, tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["embed.weight"]
    assert names(tmp_path) == ["model.safetensors"]


def test_what_an_export_left_behind_is_no_obstacle(tmp_path: Path):
    (tmp_path / ".export.partial").mkdir()
    (tmp_path / ".export.partial" / "half").write_text("of another model")
    (tmp_path / "model.safetensors").write_text("of an earlier run")
    export(nn.Linear(2, 2), tmp_path)
    assert names(tmp_path) == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors").keys() == {"weight", "bias"}


def test_a_hugging_face_model_can_be_read_by_its_own_library(tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    export(model, tmp_path)
    assert {"config.json", "model.safetensors"} <= set(names(tmp_path))
    read = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = torch.arange(8)[None]
    assert torch.equal(read(tokens).logits, model(tokens).logits)
