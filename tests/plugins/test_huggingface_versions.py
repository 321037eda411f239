"""The plugin's tests once more with other releases of Hugging Face's libraries, each set in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

STACKS = {
    "transformers 4.57, TRL 0.24": (
        *("transformers==4.57.6", "trl==0.24.0", "accelerate==1.10.1", "peft==0.17.1", "datasets==3.6.0"),
        *("huggingface_hub==0.36.0", "tokenizers==0.22.1"),
    ),
    "transformers 5.17": ("transformers==5.17.0", "huggingface_hub==1.33.0", "httpx==0.28.1", "httpcore==1.0.9"),
}
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
OWN = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
"""What is installed comes by the environment's own path, in which its packages stand before ours."""
FILES = ("hooks", "guard")
"""And TRL's, where a release of it is named."""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stack", STACKS)
def test_other_releases(stack: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", STACKS[stack])
    asked = "import transformers; print(f'transformers=={transformers.__version__}')"
    found = subprocess.run([python, "-c", asked], env=OWN, capture_output=True, text=True, timeout=100, check=True)
    assert found.stdout.split() == [STACKS[stack][0]]
    files = (*FILES, "trl") if "TRL" in stack else FILES
    tests = [str(HERE / f"test_huggingface_{name}.py") for name in files]
    done = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", *tests],
        cwd=ROOT,
        env=OWN,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert " passed" in done.stdout


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """Python that finds `packages`, and everything else, torch too, where this one does. Skips where they cannot be had."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "parent.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot have them: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return python
