"""What a driver has workers train, in files beside their script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.batches.tree import RAW, pack, unpack
from roadtrain.batches.work import Made
from roadtrain.codec.packet import Packet
from roadtrain.driven.blueprint import Blueprint
from roadtrain.driven.building import build_from
from roadtrain.driven.names import Name
from roadtrain.driven.optimizer import OptimizerDrawing, build_optimizer
from roadtrain.errors import UsageError

SOURCE = "driver"
"""What the driver's loader is known as."""
ORDER, WEIGHTS, EXAMPLE = "driven.json", "driven.safetensors", "example.safetensors"
SCRIPT = "train.py"
TEXT = '''"""A model of a driver's, trained on what the driver's loader loads."""

from roadtrain.driven.worker import train

if __name__ == "__main__":
    train(__file__)
'''


class Order(msgspec.Struct, frozen=True):
    """A model, its optimizer and its loss; `batches` of the driver's loader in each of `epochs`. `size`: samples of a batch,
    where all have as many; `example`: how a batch is nested whose tensors are one sample's."""

    model: Blueprint
    optimizer: OptimizerDrawing
    loss: Name
    batches: int
    epochs: int
    size: int = 0
    example: bytes = b""


def write(folder: Path, order: Order, tensors: Mapping[str, Tensor], example: Made | None = None) -> Path:
    """Write the script that trains it, and what that reads; the script's path. `example`: a batch of one sample."""
    if example is not None:
        head, packets = pack(example)
        order = msgspec.structs.replace(order, example=head)
        save_file({str(number): p.parts[0].clone() for number, p in enumerate(packets)}, folder / EXAMPLE)
    (folder / ORDER).write_bytes(msgspec.json.encode(order))
    save_file(dict(tensors), folder / WEIGHTS)
    (folder / SCRIPT).write_text(TEXT, encoding="utf-8")
    return folder / SCRIPT


def order_of(folder: Path) -> Order:
    """What was written there. Raises UsageError where there is none."""
    try:
        return msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder} holds no model of a driver's: {error}") from error


def model_of(folder: Path, order: Order) -> nn.Module:
    """Its model. Raises UsageError where it cannot be built here."""
    return build_from(order.model, load_file(folder / WEIGHTS))


def optimizer_of(order: Order, model: nn.Module) -> Optimizer:
    """Its optimizer, of the model that was built. Raises UsageError where it cannot be built here."""
    return build_optimizer(order.optimizer, model)


def example_of(folder: Path, order: Order) -> Any:
    """Its batch of one sample."""
    found = load_file(folder / EXAMPLE)
    parts = [found[str(number)] for number in range(len(found))]
    return unpack(order.example, tuple(Packet(RAW, "uint8", part.numel(), (part,)) for part in parts), "").batch
