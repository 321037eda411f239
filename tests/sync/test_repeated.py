from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("repeated.py")
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
"""No fused multiply-add, no wide vectors, neither in torch nor in BLAS."""


def digests(**environment: str) -> dict[str, str]:
    """What the script finds in a process with these variables and without those of `PLAIN`."""
    inherited = {name: value for name, value in os.environ.items() if name not in PLAIN}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_cpu_with_other_instructions_comes_to_the_same_bits() -> None:
    """Every rule with every codec: packets, what is committed and answered, and the state."""
    plain, fast = digests(**PLAIN), digests()
    if plain.pop("fused") == fast.pop("fused"):
        pytest.skip("this CPU has no fused multiply-add: nothing differs")
    assert len(plain) > 100
    assert [name for name, digest in plain.items() if fast[name] != digest] == []
