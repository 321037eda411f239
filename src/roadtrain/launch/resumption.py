"""What a run that is gone on with was: whether anything of it can be, what it trained, and what is set otherwise now."""

from __future__ import annotations

from pathlib import Path

from roadtrain.checkpoint.folder import steps_in
from roadtrain.errors import UsageError
from roadtrain.plan import OWN, Plan, Target, as_dict, parse


def check_resumable(folder: Path) -> None:
    """Raises UsageError when `folder` is not the folder of a run with a checkpoint, or of one that goes on."""
    check_is_run(folder, "give the --out of a run that was stopped")
    if not steps_in(folder / "checkpoint"):
        from roadtrain.launch.run_folder import refuse_in_use  # the command line is read without it

        refuse_in_use(folder)
        raise UsageError(f"{folder} has no checkpoint", _nothing_saved(folder))


def check_is_run(folder: Path, hint: str) -> None:
    """Raises UsageError when `folder` is not the folder of a run."""
    if not (folder / "plan.toml").is_file():
        raise UsageError(f"{folder} is not the folder of a run", hint)


def _nothing_saved(folder: Path) -> str:
    """Why there is nothing to go on from, as who wrote the run can mend it."""
    target = saved_plan(folder).job.target
    if target and Target.parse(target).is_script:
        return "there is nothing to go on from: the script saves with sync.save(), or rt.Trainer's checkpoint_every="
    return "there is nothing to go on from: --checkpoint-every N saves as it goes"


def target_before(folder: Path) -> tuple[str, tuple[str, ...]]:
    """What the run in `folder` trains, and a script's arguments. Raises UsageError where nothing can be gone on with."""
    check_resumable(folder)
    job = saved_plan(folder).job
    return job.target, job.arguments


def changed_since(folder: Path, plan: Plan) -> list[str]:
    """What `plan` says of the model that the run in `folder` did not, as flags, each with what the run had."""
    before, now = saved_plan(folder), plan
    changed = [
        f"{_flag(name)} {value}, the run had {was}"
        for name, value in as_dict(now)[OWN].items()
        if (was := as_dict(before)[OWN].get(name, "the default")) != value
    ]
    if before.job.arguments != now.job.arguments:
        given, had = (" ".join(job.arguments) or "none" for job in (now.job, before.job))
        changed.append(f"the script's words {given}, the run had {had}")
    return changed


def left_behind(folder: Path, plan: Plan) -> str:
    """What of the run in `folder` cannot go on under `plan`; empty where all can. A script's optimizer is its own."""
    was, now = saved_plan(folder).optimizer.name, plan.optimizer.name
    return "" if was == now else f"the moments of {was} are left behind: {now} begins with its own"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def saved_plan(folder: Path) -> Plan:
    """The plan of the run in `folder`; of a script, what was chosen of it. Raises UsageError where it cannot be read."""
    file = folder / "plan.toml"
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", error.hint) from error
