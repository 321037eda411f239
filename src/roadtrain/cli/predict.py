"""`roadtrain predict`: the outputs of a run's model on an input of any size."""

from __future__ import annotations

import json
import time

from roadtrain.cli.interruption import stopping_at_once
from roadtrain.cli.model_arguments import Predict
from roadtrain.launch.process_server import start
from roadtrain.launch.run_request import in_full
from roadtrain.plan import settings


def predict(command: Predict) -> int:
    """Write the parts. Raises UsageError, RunFailed, Interrupted."""
    if command.device is not None:
        settings()["place", "device"].from_text(command.device, "--device")
    began = time.monotonic()
    with stopping_at_once():
        start()  # it imports torch beside this process
        from roadtrain.cli.predict_progress import PredictProgress
        from roadtrain.launch import prediction

    order = prediction.PredictRequest(
        folder=in_full(command.folder),
        input=in_full(command.input),
        out=in_full(command.out),
        workers=command.workers,
        batch=command.batch,
        shard_size=command.shard_size,
        format=command.format,
        device=command.device,
    )
    with PredictProgress(quiet=command.json) as screen:
        done = prediction.predict(order, screen.watch)
    took_s = time.monotonic() - began
    if command.json:
        print(json.dumps({"rows": done.rows, "parts": done.parts, "seconds": round(took_s, 3)}))
        return 0
    before = f", {done.begun:,} of them before" if done.begun else ""
    print(f"{done.rows:,} rows{before}, {done.parts:,} parts in {order.out}, {took_s:.1f} s")
    return 0
