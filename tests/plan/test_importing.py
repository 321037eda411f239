"""The person's own modules: where they are looked for, and what they are called."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from roadtrain.plan.importing import add_folder, import_file

NAMES = ("queue", "secrets", "statistics", "token")


def in_a_process(program: str, folder: Path) -> str:
    line = [sys.executable, "-c", program]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout


def test_files_beside_a_job_do_not_hide_the_standard_library_but_other_packages(tmp_path: Path) -> None:
    for name in (*NAMES, "torch"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    (tmp_path / "job.py").write_text(
        f"import torch, {', '.join(NAMES)}\nprint([hasattr(m, 'MINE') for m in (torch, {', '.join(NAMES)})])\n"
    )
    program = (
        "import sys; sys.path.remove(''); from pathlib import Path; from roadtrain.plan.importing import import_file;"
        "module = import_file(Path('job.py').absolute());"
        "print([hasattr(m, 'MINE') for m in (module.torch, module.queue, module.secrets, module.statistics, module.token)])"
    )
    assert in_a_process(program, tmp_path) == "[True, False, False, False, False]\n"


def test_a_job_may_be_called_as_a_module_of_the_standard_library(tmp_path: Path) -> None:
    file = tmp_path / "queue.py"
    file.write_text("MINE = True\n")
    module = import_file(file)
    assert module.MINE
    assert import_file(file) is module
    import queue

    assert queue is not module
    assert sys.modules[module.__name__] is module


def test_a_job_has_its_own_name_and_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a_job_with_a_name.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport roadtrain_beside_it\n"
        "@dataclass\nclass Sample:\n    number: int\n"
    )
    (tmp_path / "roadtrain_beside_it.py").touch()
    module = import_file(file)
    assert module.__name__ == "a_job_with_a_name"
    assert import_file(file) is module
    packed = pickle.dumps(module.Sample(3))
    assert pickle.loads(packed) == module.Sample(3)
    program = f"import pickle, sys; sys.path.append({str(tmp_path)!r}); print(pickle.loads({packed!r}).number)"
    assert in_a_process(program, Path("/")) == "3\n"


def test_what_a_job_prints_does_not_mix_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a_job_that_talks.py"
    file.write_text("print('hello')\n")
    import_file(file)
    assert capsys.readouterr() == ("", "hello\n")


def test_a_folder_is_added_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/first", "/lib/python3.11", "/lib/python3.11/site-packages", "/other"])
    add_folder(tmp_path)
    add_folder(tmp_path)
    assert sys.path == ["/first", "/lib/python3.11", str(tmp_path), "/lib/python3.11/site-packages", "/other"]
