"""What workers of a driver run: its model, its optimizer and its loss, on the batches that it sends."""

from __future__ import annotations

from pathlib import Path

from roadtrain.data.draws import draw_from, mixed
from roadtrain.driven.names import thing_of
from roadtrain.driven.order import SOURCE, model_of, optimizer_of, order_of
from roadtrain.session.device import pick_device
from roadtrain.session.worker_context import this_worker
from roadtrain.trainer.trainer import Trainer


def train(script: str) -> None:
    """Train what was written beside `script`. Raises UsageError for what cannot be built here, and as `rt.Trainer` does."""
    worker = this_worker()
    folder = Path(script).parent
    order = order_of(folder)
    model = model_of(folder, order)
    if worker is not None:
        device = str(worker.chosen.get("place", {}).get("device", "auto"))
        model.to(pick_device(device, worker.worker.local))
    trainer = Trainer(model, thing_of(order.loss), optimizer_of(order, model))
    draw_from(mixed(trainer.plan.job.seed, trainer.sync.rank))  # what dropout draws, say, is not the same everywhere
    trainer.fit_loader(trainer.sync.fed_loader(SOURCE, order.batches, order.epochs))
