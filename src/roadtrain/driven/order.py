"""What a driver has workers train, in files beside their script."""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.driven.blueprint import Blueprint
from roadtrain.driven.building import build_from
from roadtrain.driven.names import Name
from roadtrain.driven.optimizer import OptimizerDrawing, build_optimizer
from roadtrain.errors import UsageError

SOURCE = "driver"
"""What the driver's loader is known as."""
ORDER, WEIGHTS = "driven.json", "driven.safetensors"
SCRIPT = "train.py"
TEXT = '''"""A model of a driver's, trained on what the driver's loader loads."""

from roadtrain.driven.worker import train

if __name__ == "__main__":
    train(__file__)
'''


class Order(msgspec.Struct, frozen=True):
    """A model, its optimizer and its loss; `batches` of the driver's loader in each of `epochs`."""

    model: Blueprint
    optimizer: OptimizerDrawing
    loss: Name
    batches: int
    epochs: int


def write(folder: Path, order: Order, tensors: dict[str, Tensor]) -> Path:
    """Write the script that trains it, and what that reads; the script's path."""
    (folder / ORDER).write_bytes(msgspec.json.encode(order))
    save_file(tensors, folder / WEIGHTS)
    (folder / SCRIPT).write_text(TEXT, encoding="utf-8")
    return folder / SCRIPT


def read(folder: Path) -> tuple[Order, nn.Module, Optimizer]:
    """What was written there, with the model and the optimizer built. Raises UsageError where that cannot be."""
    try:
        order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder} holds no model of a driver's: {error}") from error
    model = build_from(order.model, load_file(folder / WEIGHTS))
    return order, model, build_optimizer(order.optimizer, model)
