"""`rt.Orchestrator`: trains a model of this process elsewhere, on what a DataLoader of this process loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.checkpoint.folder import MODEL
from roadtrain.driven.default_loss import default_loss
from roadtrain.driven.drawing import draw, draw_factory
from roadtrain.driven.names import name_of
from roadtrain.driven.optimizer import draw_optimizer
from roadtrain.driven.order import SCRIPT, Order, write
from roadtrain.errors import Interrupted, RoadtrainError, RunFailed, UsageError
from roadtrain.launch.local import run_local
from roadtrain.launch.process_server import start
from roadtrain.launch.run_folder import refuse_in_use
from roadtrain.launch.run_request import RunRequest, in_full, new_run_id
from roadtrain.notebook.choice import Choice, merged
from roadtrain.notebook.config import DistributedConfig
from roadtrain.notebook.driver_feeder import DriverFeeder
from roadtrain.notebook.laid_out import as_job, has_layout
from roadtrain.notebook.loader_batches import LoaderBatches
from roadtrain.notebook.looking import mean_figures, predictions
from roadtrain.notebook.progress import Progress
from roadtrain.notebook.source_code import refuse_in_worker, write_code
from roadtrain.orchestrate.driver import Elsewhere, run_on
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.plan import Plan
from roadtrain.report import Report
from roadtrain.session.worker_context import this_worker
from roadtrain.trainer.trainer import Loss

CODE = "code"
"""Where in a run's folder what travels is."""


class Orchestrator:
    """Trains what `register_model` is given on workers: processes of this machine, or with `on`, a ticket, those of machines that
    have joined with --allow-code.

    `plan`: a Plan, the path of a TOML file, or a DistributedConfig. `settings` are the plan's, spelt as flags are: workers=4,
    sync="diloco:50", codec="int8", lr=3e-4. `out`: the run's folder; where it is not given each training has a new one in runs/.
    `report` is that of the last training.
    """

    def __init__(
        self,
        plan: Plan | DistributedConfig | str | Path | None = None,
        *,
        on: str | None = None,
        mode: Literal["orchestrator"] = "orchestrator",
        out: str | Path | None = None,
        **settings: object,
    ) -> None:
        """Raises UsageError for a setting or a ticket that is none."""
        refuse_in_worker(this_worker() is not None)
        if mode != "orchestrator":
            raise UsageError(f"mode is {mode!r}", "workers are rt.NetworkWorker(ticket), or roadtrain join TICKET")
        self._choice = Choice.of(plan, settings, out)
        self._ticket = None if on is None else Ticket.read(on)
        self._registered: _Registered | None = None
        self._shows_memory = False
        self.report: Report | None = None

    def register_model(
        self,
        model: nn.Module,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        *,
        factory: Callable[[], nn.Module] | None = None,
    ) -> None:
        """What is trained: `loss(model, batch)` is the mean loss of a batch, `optimizer` any of torch's over the model's
        parameters. Without a loss, batches are pairs (inputs, targets), and it is cross entropy for targets of whole numbers and
        the mean squared error for others; without an optimizer it is AdamW, or what lr= and others say.

        The model travels as its classes' names, their attributes and its tensors. `factory`, a function without parameters,
        makes it where it has attributes that cannot travel. Raises UsageError that names what cannot.
        """
        if optimizer is not None and self._choice.said:
            raise UsageError("lr= and others make an optimizer, and one is given", "leave one of them out")
        if self._ticket is None:
            start()  # what workers are forked from imports torch meanwhile
        made = optimizer if optimizer is not None else self._choice.make_optimizer(model)
        found = _Registered(model, loss or default_loss, made, factory)
        found.order(1, 1)  # what cannot travel is said here
        self._registered = found

    def enable_memory_profiling(self) -> None:
        """After each training, show how much memory each worker has had."""
        self._shows_memory = True

    def start_training(self, dataloader: Iterable[Any], num_epochs: int = 1) -> Report:
        """Train for so many epochs of `dataloader`, which is gone through here, in its own order; each of its batches is one step
        of one worker. Blocks, shows how far it is, and has the trained weights in the model afterwards. Returns the run's report.

        The optimizer begins anew. Raises what the loader raises, RunFailed when the run fails, Interrupted when it was stopped,
        and UsageError for a loader without a length.
        """
        registered = self._of_registered()
        if isinstance(num_epochs, bool) or num_epochs < 1:
            raise UsageError(f"num_epochs is {num_epochs!r}; wanted a whole number from 1")
        batches = LoaderBatches(dataloader)
        order, send = self._ordered(registered, batches, num_epochs)
        feeder = DriverFeeder(batches)
        screen = Progress(order)

        def watch(now: Any) -> None:
            feeder.look()
            screen.watch(now)

        try:
            with screen:
                if self._ticket is None:
                    report = run_local(order, watch, screen.words, feeder.at)
                else:
                    there = Elsewhere(ticket=self._ticket, workers=self._choice.workers, send=send)
                    report = run_on(there, order, watch, screen.words, screen.say, feeder.at)
        except RoadtrainError:
            feeder.look()  # where the loader has failed, that is why
            raise
        finally:
            feeder.close()
        self.report = report
        if report.status == "interrupted":
            raise Interrupted("stopped; the model is as it was before this training")
        load_trained(registered.model, order.folder / MODEL)
        if self._shows_memory:
            print(memory_table(report))
        return report

    def validate(self, dataloader: Iterable[Any]) -> dict[str, float]:
        """Means over all samples of `dataloader`: "loss", and what else the loss returns beside it. Computed in this process."""
        registered = self._of_registered()
        return mean_figures(registered.model, registered.loss, dataloader)

    def predict(self, dataloader: Iterable[Any]) -> Iterator[Tensor | Any]:
        """The model's output for each batch of `dataloader`, in order: of a batch, or of the first part of one that is a pair.
        Computed in this process."""
        return predictions(self._of_registered().model, dataloader)

    # ------------------------------------------------------------------------------------------------------ a run

    def _of_registered(self) -> _Registered:
        if self._registered is None:
            raise UsageError("there is no model yet", "call register_model(model) first")
        return self._registered

    def _ordered(self, registered: _Registered, batches: LoaderBatches, epochs: int) -> tuple[RunRequest, list[Path]]:
        """The run, with what travels in its folder; and that."""
        run = new_run_id()
        folder = in_full(self._choice.folder or Path("runs") / run)
        refuse_in_use(folder)
        code, tables = folder / CODE, merged(self._choice.tables, {})
        spread = has_layout(tables)
        if spread:
            there = str(code) if self._ticket is None else "."
            tables = as_job(tables, registered.optimizer, batches, epochs, there)
        else:
            tables["job"] = {**tables.get("job", {}), "target": str(code / SCRIPT)}
        code.mkdir(parents=True, exist_ok=True)
        write_code(code)
        order, tensors = registered.order(batches.batches, epochs, tables["job"].get("batch", 0))
        script = write(code, order, tensors, batches.example() if spread else None)
        request = RunRequest.of(tables, folder)
        request.check(elsewhere=self._ticket is not None)
        return request, [path for path in sorted(code.iterdir()) if path != script and not path.name.startswith("__")]


class _Registered:
    """A model, with what trains it."""

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: Optimizer, factory: Callable[[], nn.Module] | None
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self._factory = factory

    def order(self, batches: int, epochs: int, size: int = 0) -> tuple[Order, dict[str, Tensor]]:
        """As it travels. Raises UsageError that names what cannot."""
        model, tensors = draw(self.model) if self._factory is None else draw_factory(self._factory, self.model)
        optimizer = draw_optimizer(self.optimizer, self.model)
        return Order(model, optimizer, name_of(self.loss, "the loss"), batches, epochs, size), tensors


@torch.no_grad()
def load_trained(model: nn.Module, file: Path) -> None:
    """Copy what was trained into the model, where it is. Raises RunFailed where that is not all of it."""
    try:
        trained = load_file(file)
    except OSError as error:
        raise RunFailed(f"the run has left no model: {error}") from error
    missing = {tensor.data_ptr(): name for name, tensor in model.state_dict(keep_vars=True).items() if tensor.numel()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in trained:
            tensor.copy_(trained[name])
            missing.pop(tensor.data_ptr(), None)
    if missing:
        raise RunFailed(f"the trained model lacks {', '.join(missing.values())}")


def memory_table(report: Report) -> str:
    """Who has had how much memory."""
    rows = [f"{worker.id:<8} {worker.peak_memory_bytes / 2**20:>10,.0f} MiB" for worker in report.workers]
    return "\n".join([f"{'worker':<8} {'peak memory':>14}", *rows])
