"""Train one PyTorch model on all the machines you have, over the network you have.

    import roadtrain as rt

    rt.attach(model, optimizer, sync="diloco:50", codec="int8")     a run, around a loop of one's own (`Attached`)
    rt.Trainer(model, loss, optimizer, sync="ssgd")                 a run with a loop that is short enough to read
    rt.Callback, rt.EarlyStopping, rt.BestCheckpoints               what is told of it as it goes on
    rt.Orchestrator(plan, on=ticket)                                a run of a model of this process, from a notebook or a script
    rt.DistributedConfig                                            settings as variables of other frameworks spell them
    rt.NetworkWorker(ticket).connect_and_train()                    `roadtrain join` from Python
    rt.feed(dataset, on=ticket)                                     a machine that reads, decodes and augments for others
    trainer.fit(rt.remote_data(ticket))                             one that computes on that; validate and predict likewise
    rt.Plan                                                         every setting of a run

Importing it is light: torch comes with the first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadtrain.errors import RunFailed, UsageError
    from roadtrain.loop.attach import attach
    from roadtrain.loop.attached import Attached
    from roadtrain.notebook.config import DistributedConfig
    from roadtrain.notebook.network_worker import NetworkWorker
    from roadtrain.notebook.orchestrator import Orchestrator
    from roadtrain.orchestrate.data_feeds import feed
    from roadtrain.orchestrate.data_taker import remote_data
    from roadtrain.plan import Plan
    from roadtrain.trainer.best_checkpoints import BestCheckpoints
    from roadtrain.trainer.callbacks import Callback, EarlyStopping
    from roadtrain.trainer.trainer import Trainer

__all__ = [
    "Attached",
    "BestCheckpoints",
    "Callback",
    "DistributedConfig",
    "EarlyStopping",
    "NetworkWorker",
    "Orchestrator",
    "Plan",
    "RunFailed",
    "Trainer",
    "UsageError",
    "attach",
    "feed",
    "remote_data",
]

_HOMES = {
    "Attached": "roadtrain.loop.attached",
    "BestCheckpoints": "roadtrain.trainer.best_checkpoints",
    "Callback": "roadtrain.trainer.callbacks",
    "DistributedConfig": "roadtrain.notebook.config",
    "EarlyStopping": "roadtrain.trainer.callbacks",
    "NetworkWorker": "roadtrain.notebook.network_worker",
    "Orchestrator": "roadtrain.notebook.orchestrator",
    "Plan": "roadtrain.plan",
    "RunFailed": "roadtrain.errors",
    "Trainer": "roadtrain.trainer.trainer",
    "UsageError": "roadtrain.errors",
    "attach": "roadtrain.loop.attach",
    "feed": "roadtrain.orchestrate.data_feeds",
    "remote_data": "roadtrain.orchestrate.data_taker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roadtrain' has no attribute {name!r}")
    from importlib import import_module

    if _HOMES[name] != "roadtrain.errors":
        import_module("roadtrain.system").refuse_windows()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
