"""`roadtrain verify`: what this machine has, whether two processes of it train together, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from roadtrain.cli.machine_arguments import Verify
from roadtrain.errors import RunFailed
from roadtrain.version import VERSION

EXTRAS: Mapping[str, str] = {
    "sklearn": "the recipe digits",
    "matplotlib": "figures of compare",
    "torchmetrics": "metrics that are objects of it",
    "pyarrow": "Parquet files of predict",
    "tensorboard": "--log-to tensorboard",
    "trackio": "--log-to trackio",
    "wandb": "--log-to wandb",
    "mlflow": "--log-to mlflow",
    "ray": "--on ray",
    "transformers": "models and trainers of Hugging Face",
    "accelerate": "scripts with Accelerate",
    "trl": "trainers of TRL",
    "lightning_fabric": "scripts with Lightning Fabric",
    "zeroconf": "joining without a ticket, in one network",
}
"""Modules that not everybody needs, and for what."""
PACKAGES = {"sklearn": "scikit-learn", "lightning_fabric": "lightning-fabric"}
"""Where the package has another name than the module."""
TRAINING = ("run", "xor", "--workers", "2", "--steps", "100", "--batch", "32", "--json")
TRAINING_S = 120.0


def verify(command: Verify) -> int:
    """Carry out `roadtrain verify`; returns the exit code. Raises RunFailed where two processes cannot train together."""
    for name, found in (*_versions().items(), *_devices().items()):
        print(f"{name:<12} {found}")
    missing = {name: what for name, what in EXTRAS.items() if importlib.util.find_spec(name) is None}
    present = [f"{_package(name)} {_version(_package(name))}" for name in EXTRAS if name not in missing]
    print(f"{'extras':<12} {', '.join(present) or 'none'}")
    print(f"{'training':<12} {_trained()}", flush=True)
    for name, what in missing.items():
        print(f"{'not here':<12} {_package(name)}: {what}")
    return 0


def _versions() -> Mapping[str, str]:
    import torch

    return {
        "roadtrain": VERSION,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def _devices() -> Mapping[str, str]:
    import torch
    import torch.distributed

    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    names = "none"
    if there is not None:
        count = torch.accelerator.device_count()
        named = torch.cuda.get_device_name() if there.type == "cuda" else there.type
        names = f"{count} x {named}"
    backends = {"gloo": torch.distributed.is_gloo_available(), "nccl": torch.distributed.is_nccl_available()}
    return {
        "processors": str(os.cpu_count() or 1),
        "accelerators": names,
        "backends": ", ".join(name for name, found in backends.items() if found) or "none",
    }


def _package(module: str) -> str:
    return PACKAGES.get(module, module)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _trained() -> str:
    """How a run of two processes went. Raises RunFailed."""
    with tempfile.TemporaryDirectory(prefix="roadtrain-verify-") as folder:
        words = [sys.executable, "-m", "roadtrain", *TRAINING, "--out", str(Path(folder) / "run")]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("ROADTRAIN_")}
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=TRAINING_S, check=False, env=environment, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"two processes had not trained together within {TRAINING_S:.0f} s") from None
    if done.returncode:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.startswith("error: ")), "error: no word"
        )
        raise RunFailed(
            f"two processes cannot train together: {last.removeprefix('error: ')}", "see it with: roadtrain run xor"
        )
    report = json.loads(done.stdout)
    return f"two processes, {report['steps']} steps in {report['wall_s']:.1f} s, loss {report['train_loss']:.3f}"
