"""What scripts beside this tell, run as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "scripts"
ALONE = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def told_by(script: str, how: str, folder: Path) -> list[dict[str, Any]]:
    """What each process tells of itself, in its file of `folder/how`."""
    (out := folder / how).mkdir()
    command = [sys.executable, str(SCRIPTS / script), how, str(out)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(path.read_text()) for path in sorted(out.glob("?.json"))]
