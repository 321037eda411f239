"""On what a worker computes, and in which numbers."""

from __future__ import annotations

import torch

from roadtrain.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
"""Dtype of the parameters for each precision; bf16 and fp16 compute in it and keep fp32 parameters."""


def pick_device(wanted: str) -> torch.device:
    """The device of this worker. Raises UsageError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but torch sees no CUDA device here", "use --device cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")
