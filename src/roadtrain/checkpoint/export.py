"""The trained model as others read it: `model.safetensors`, and beside it what a Hugging Face model says of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from roadtrain.checkpoint.folder import MODEL


def export(model: nn.Module, folder: Path) -> None:
    """Write the model into `folder`; each file is there whole or not at all.

    A model that has `save_pretrained` writes itself, so that `from_pretrained(folder)` reads it.
    """
    partial = folder / ".export.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_pretrained = getattr(model, "save_pretrained", None)
    if save_pretrained is None:
        save_file(_once(model), partial / MODEL)
    else:
        save_pretrained(partial)
    for file in sorted(partial.iterdir()):
        file.chmod(0o644)  # safetensors makes files that nobody else may read
        file.rename(folder / file.name)
    partial.rmdir()


def export_as(model: nn.Module, file: Path) -> None:
    """Write the tensors of the model as `file`, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    save_file(_once(model), partial)
    partial.chmod(0o644)
    partial.replace(file)


def _once(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the state dict once, tied ones under their first name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors
