"""One replica, as one of its ranks sees it: what a trainer calls, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from inspect import signature
from itertools import chain as joined
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from roadtrain.layout.assignment import parts_of, stages_of
from roadtrain.layout.blocks import units
from roadtrain.layout.gradient import add_up, by_mesh, global_norm, scale
from roadtrain.layout.options import Batch, Loss, Options
from roadtrain.layout.shard import synchronise, wrap
from roadtrain.layout.speed import speeds_of
from roadtrain.layout.stage import keywords
from roadtrain.layout.survey import survey
from roadtrain.layout.tensor import split, styles_of

if TYPE_CHECKING:
    from roadtrain.layout.pipeline import Pipeline

MakeOptimizer: TypeAlias = Callable[[list[Any]], Optimizer]


class Replica:
    """The parts of `model` that this rank holds, their optimizer, and a step of both.

    The default process group holds the region's ranks, in the order of the layout; a layout of one needs none. `model` is whole,
    on its device and the same everywhere; unless every rank keeps all of it, it must not be used any more. `buffers`: names of
    those that are averaged over the ranks, unless they count, and saved. `sample`: a small batch, the same everywhere.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        options: Options,
        optimizer: MakeOptimizer,
        sample: Batch,
        buffers: Collection[str] = (),
    ) -> None:
        self._options, spec = options, options.spec
        _keep_no_cache(model)
        travelling = {name: p for name, p in model.named_parameters() if p.requires_grad}
        travelling |= {name: model.get_buffer(name) for name in buffers}
        self._forms = {name: torch.empty_like(tensor, device="meta") for name, tensor in travelling.items()}
        self._device = next(model.parameters()).device
        self._mesh = _mesh(options, next(model.parameters()).device.type) if spec.size > 1 else None
        found = survey(model, loss, sample) if spec.pp > 1 or spec.tp > 1 else None
        blocks = units(model)
        self.speeds = speeds_of(model, found, options) if found is not None and spec.pp > 1 else ()
        self.parts = parts_of(model, loss, options, found, self.speeds, self._coordinate("pp"))
        if found is not None and spec.tp > 1:
            styles = styles_of(model, found, options)
            for part in self.parts:
                split(part, found, styles, self._of("tp"), options)
        self._stages = stages_of(found, options, self.speeds, self._forms)
        if found is not None:
            found.calls.clear()  # they hold activations
        del model
        self._wrapped = [wrap(part, blocks, self._mesh, options) for part in self.parts]
        self._pipeline = self._pipelined() if spec.pp > 1 else None
        self._ties = self._groups_of_ties()
        self.optimizer = self._optimizer(optimizer)

    # ------------------------------------------------------------------------------------------------- where

    def _of(self, name: str) -> DeviceMesh:
        assert self._mesh is not None
        return self._mesh[name]

    def _coordinate(self, name: str) -> int:
        """This rank's place along a dimension of the mesh."""
        return self._of(name).get_local_rank() if getattr(self._options.spec, name) > 1 else 0

    def parameters(self) -> dict[str, Tensor]:
        """What is trained here, by the names of the whole model; DTensors where it is a part of a parameter."""
        return {n: p for part in self.parts for n, p in part.model.named_parameters() if p.requires_grad}

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers that are averaged here, by the names of the whole model."""
        here = self._coordinate("pp")
        held = ((n, b) for part in self.parts for n, b in part.model.named_buffers() if n in self._forms)
        return {name: buffer for name, buffer in held if here in self._stages[name]}

    def _owned(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that are counted and saved here: of several stages that hold a copy, the first does."""
        for name, parameter in self.parameters().items():
            if self._stages[name][0] == self._coordinate("pp"):
                yield name, parameter

    def _groups_of_ties(self) -> list[tuple[list[Tensor], dist.ProcessGroup]]:
        """Parameters that several stages hold, with the ranks that hold a copy of the same part. All ranks make all groups."""
        held = self.parameters()
        found: list[tuple[list[Tensor], dist.ProcessGroup]] = []
        spec = self._options.spec
        each = spec.size // spec.pp
        for stages in sorted({stages for stages in self._stages.values() if len(stages) > 1}):
            for column in range(each):
                group = dist.new_group([stage * each + column for stage in stages])
                names = [name for name, ranks in self._stages.items() if ranks == stages]
                if dist.get_rank() in [stage * each + column for stage in stages]:
                    assert isinstance(group, dist.ProcessGroup)
                    found.append(([held[name] for name in names], group))
        return found

    def _pipelined(self) -> Pipeline:
        from roadtrain.layout.pipeline import Pipeline  # a second of imports, which most layouts do without

        return Pipeline(self._wrapped, self.parts, self._options, self._of("pp").get_group())

    def _optimizer(self, make: MakeOptimizer) -> Optimizer:
        parameters = list(self.parameters().values())
        if self._options.spec.sharding == "zero1" and self._options.spec.shard > 1:
            from torch.distributed.optim import ZeroRedundancyOptimizer  # a second of imports

            plain = make(parameters)
            taken = signature(type(plain)).parameters
            chosen = {key: value for key, value in plain.defaults.items() if key in taken}
            return ZeroRedundancyOptimizer(parameters, type(plain), **chosen)
        return make([{"params": group} for group in by_mesh(parameters)])

    # -------------------------------------------------------------------------------------------------- step

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> Tensor:
        """Gradients of the mean loss over the batches of all data-parallel ranks, times `scale`.

        Returns the loss of this rank's batch, detached, without the scale.
        """
        for part in self.parts:
            part.zero_grad(set_to_none=True)
            part.scale = scale
        loss = self._accumulate(batch) if self._pipeline is None else self._pipe(self._pipeline, batch)
        for parameters, group in self._ties:
            add_up(parameters, group)
        self._average_buffers()
        return loss / scale

    def _average_buffers(self) -> None:
        for name in ("dp", "shard"):
            size = getattr(self._options.spec, name)
            for buffer in self._buffers().values() if size > 1 else ():
                if not buffer.is_floating_point():
                    continue  # a counter, the same everywhere
                dist.all_reduce(buffer, group=self._of(name).get_group())
                buffer.div_(size)

    def _accumulate(self, batch: Batch) -> Tensor:
        """One piece after the other; gradients meet in the last one's backward."""
        wrapped, pieces = self._wrapped[0], list(_cut(batch, self._options.pieces))
        total = torch.zeros((), device=batch[0].device)
        for number, piece in enumerate(pieces):
            final = number == len(pieces) - 1
            synchronise(wrapped, final)
            with ExitStack() as stack:
                if isinstance(wrapped, DistributedDataParallel) and not final:
                    stack.enter_context(wrapped.no_sync())
                loss = wrapped(**keywords(piece)) * (len(piece[0]) / len(batch[0]))
                loss.backward()
            total = total + loss.detach()
        return total

    def _pipe(self, pipeline: Pipeline, batch: Batch) -> Tensor:
        """Through the stages; the last one tells the others the loss."""
        loss = pipeline.forward_backward(batch)
        dtype = next(self.parts[0].parameters()).dtype
        told = torch.zeros((), dtype=dtype, device=batch[0].device) if loss is None else loss.to(dtype)
        last = self._options.spec.pp - 1
        dist.broadcast(told, group_src=last, group=self._of("pp").get_group())
        return told

    def norm(self) -> float:
        """Global norm of the gradients, the same on all ranks."""
        stages = self._of("pp").get_group() if self._options.spec.pp > 1 else None
        return float(global_norm((p for _, p in self._owned()), stages))

    def scale(self, factor: float) -> None:
        """Multiply the gradients."""
        scale(self.parameters().values(), factor)

    # ------------------------------------------------------------------------------------------------- state

    def _holder(self) -> Optimizer:
        """The optimizer that has the state: in zero1 the one of the parameters that this rank steps."""
        return getattr(self.optimizer, "optim", self.optimizer)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """State of the optimizer that this rank accounts for, by parameter; shards are DTensors like their parameters."""
        optimizer = self._holder()
        return {
            name: {key: value for key, value in optimizer.state[p].items() if isinstance(value, Tensor)}
            for name, p in self._owned()
            if p in optimizer.state
        }

    def model_state(self) -> dict[str, Tensor]:
        """The parameters that this rank accounts for, detached, and the buffers."""
        return {name: p.detach() for name, p in self._owned()} | self._buffers()

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up the optimizer's state from whole tensors by parameter; every rank takes its part."""
        optimizer = self._holder()
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in self.parameters().items():
            if id(parameter) in mine and state.get(name):
                optimizer.state[parameter] = {k: _as_part(v, parameter) for k, v in state[name].items()}

    @torch.no_grad()
    def whole(self) -> dict[str, Tensor]:
        """What is trained or averaged, whole and on the CPU, at the first rank; empty elsewhere. All ranks call it together."""
        held, gathered = self.parameters() | self._buffers(), dict[str, Tensor]()
        spec, me = self._options.spec, dist.get_rank() if dist.is_initialized() else 0
        for name, form in self._forms.items():
            home = self._stages[name][0]
            if home == self._coordinate("pp"):
                value = held[name].detach()
                value = value.full_tensor() if isinstance(value, DTensor) else value
                if me == 0:
                    gathered[name] = value.cpu().clone()
                elif me == home * (spec.size // spec.pp):
                    dist.send(value.contiguous(), dst=0)
            elif me == 0:
                value = torch.empty_like(form, device=self._device)
                dist.recv(value, src=home * (spec.size // spec.pp))
                gathered[name] = value.cpu()
        return gathered

    @torch.no_grad()
    def spread(self, values: Mapping[str, Tensor]) -> None:
        """Take up what is trained or averaged from whole tensors, which the first rank has. All ranks call it together."""
        held, me = self.parameters() | self._buffers(), dist.get_rank() if dist.is_initialized() else 0
        for name, form in self._forms.items():
            if not form.is_floating_point():
                continue
            value = values[name].to(self._device) if me == 0 else torch.empty_like(form, device=self._device)
            if dist.is_initialized():
                dist.broadcast(value, 0)
            if name in held:
                held[name].copy_(_as_part(value, held[name]))

    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimizer state that this rank holds."""
        optimizer = self._holder()
        held = list(self.parameters().values())
        averaged = self._buffers().values()
        moments = (t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))
        gradients = (p.grad for p in held if p.grad is not None)
        return sum(_bytes(tensor) for tensor in joined(held, averaged, gradients, moments))


def _keep_no_cache(model: nn.Module) -> None:
    """A Hugging Face model would keep the keys and values of every forward pass, for a next token that never comes."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "use_cache"):
        config.use_cache = False


def _mesh(options: Options, device: str) -> DeviceMesh:
    """The dimensions that are more than one rank long."""
    spec = options.spec
    sizes = {"pp": spec.pp, "dp": spec.dp, "shard": spec.shard, "tp": spec.tp}
    longer = {name: size for name, size in sizes.items() if size > 1}
    return init_device_mesh(device, tuple(longer.values()), mesh_dim_names=tuple(longer))


def _cut(batch: Batch, pieces: int) -> Iterator[Batch]:
    return zip(*(tensor.chunk(pieces) for tensor in batch), strict=True)


def _as_part(value: Tensor, like: Tensor) -> Tensor:
    """What a rank holds of the whole `value`, spread as `like` is; steps and other scalars stay whole."""
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value.clone()
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _bytes(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()
