"""What a contribution holds, and where its answer goes: the three ways in which a model and its agreement meet.

| | a contribution | its answer | the optimizer steps |
|---|---|---|---|
| `MeanGradients` | this worker's gradient | the mean, into `.grad` | at every worker, the person's own |
| `Deltas` | what local steps have changed | the agreed values, into the model | at every worker between agreements |
| `OwnerGradients` | this worker's gradient | the stepped values, into the model | at the fragment's owner |

Buffers (BatchNorm statistics) are contributed as they are and come back averaged, in all three.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from roadtrain.session.host_copies import HostCopies, Ready, done
from roadtrain.sync.fragment import Fragment, Piece, blend, gather, scatter
from roadtrain.sync.ledger import all_finite
from roadtrain.sync.replica_buffers import ReplicaBuffers

PRESENT = "roadtrain.present"
"""The name under which workers tell each other which parameters took part in a step."""


class Payload(Protocol):
    """Between the tensors of one worker and its fragments. Vectors are flat, of the fragment's dtype, on the CPU.

    `looks`: `put` needs the values; elsewhere what was copied is what is contributed.
    """

    looks: bool

    def copy(self, fragment: int, out: Tensor) -> Ready:
        """Begin to copy what `put` makes its contribution of into `out` [numel]."""
        ...

    def put(self, fragment: int, out: Tensor) -> bool:
        """Make `out`, which has been copied, what is contributed of a fragment. Returns whether it is finite."""
        ...

    def load(self, fragment: int, value: Tensor, mix: float) -> None:
        """Take up what was agreed on, keeping the share `mix` of what was trained meanwhile."""
        ...

    def put_back(self, fragments: Collection[int]) -> None:
        """Forget what was trained on these since they were agreed on."""
        ...

    def complete(self) -> None:
        """Every fragment of a step has been loaded."""
        ...

    def ahead(self) -> dict[str, Tensor]:
        """The model by name where it is trained beyond what was agreed on, for a checkpoint; empty where it never is."""
        ...

    def agreed(self) -> dict[str, Tensor]:
        """The model by name as it was agreed on last, on the CPU; empty where it is never trained beyond that."""
        ...

    def load_ahead(self, model: Mapping[str, Tensor]) -> bool:
        """Go on from what `ahead` gave. Returns whether that is trained on here."""
        ...

    def first_value(self, fragment: int) -> Tensor:
        """What an owner's ledger begins with, as a new vector."""
        ...


def make_dense(parameter: nn.Parameter) -> None:
    """A sparse gradient, as of an embedding, in full: few optimizers take others, and no collective does."""
    if parameter.grad is not None and parameter.grad.layout is not torch.strided:
        parameter.grad = parameter.grad.to_dense()


def gradients(fragment: Fragment, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradients by name; zeros for parameters that took no part. Sparse ones are made dense, for their optimizer too."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(piece.name for piece in fragment.pieces):
        parameter = trained[name]
        make_dense(parameter)
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found


class Deltas:
    """localsgd, diloco, streaming. The anchor is the state as this worker last received it (`ReplicaBuffers.held`)."""

    looks = True

    def __init__(
        self,
        fragments: Sequence[Fragment],
        tensors: Mapping[str, Tensor],
        buffers: ReplicaBuffers,
        copies: HostCopies,
    ) -> None:
        self._fragments, self._tensors, self._buffers, self._copies = fragments, tensors, buffers, copies
        self._averages: dict[int, Tensor] = {}
        """Of buffers, as they came back last."""

    def copy(self, fragment: int, out: Tensor) -> Ready:
        return self._copies.gather(self._fragments[fragment], self._tensors, out)

    def put(self, fragment: int, out: Tensor) -> bool:
        shape, held = self._fragments[fragment], self._buffers.held[fragment]
        if held is not None and not shape.buffers:
            torch.sub(held, out, out=out)
        return all_finite(out)

    def load(self, fragment: int, value: Tensor, mix: float) -> None:
        shape, value = self._fragments[fragment], self._copies.to_device(value)
        if shape.buffers:
            self._averages[fragment] = value.detach().to("cpu", copy=True)
        if mix and not shape.buffers:
            blend(shape, value, self._tensors, mix)
        else:
            scatter(shape, value, self._tensors)

    def put_back(self, fragments: Collection[int]) -> None:
        for fragment in fragments:
            held = self._buffers.held[fragment]
            if held is not None:
                scatter(self._fragments[fragment], self._copies.to_device(held), self._tensors)

    def complete(self) -> None:
        """Nothing follows."""

    def ahead(self) -> dict[str, Tensor]:
        return dict(self._tensors)

    def agreed(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, shape in enumerate(self._fragments):
            value = self._averages.get(number) if shape.buffers else self._buffers.held[number]
            if value is not None:
                for piece in shape.pieces:
                    found.setdefault(piece.name, self._tensors[piece.name].detach().to("cpu", copy=True))
                scatter(shape, value, found)
        return found

    def load_ahead(self, model: Mapping[str, Tensor]) -> bool:
        for name, value in model.items():
            self._tensors[name].copy_(value)
        return True

    def first_value(self, fragment: int) -> Tensor:
        return _gathered(self._fragments[fragment], self._tensors)


class _Agreed:
    """A model that is never ahead of what was agreed on: gradients are contributed as they are."""

    looks = False

    def put(self, fragment: int, out: Tensor) -> bool:
        return True  # the owner looks

    def ahead(self) -> dict[str, Tensor]:
        return {}

    def agreed(self) -> dict[str, Tensor]:
        return {}

    def load_ahead(self, model: Mapping[str, Tensor]) -> bool:
        return False


class OwnerGradients(_Agreed):
    """ssgd of the built-in jobs, asgd, ssp."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        tensors: Mapping[str, Tensor],
        trained: Mapping[str, nn.Parameter],
        copies: HostCopies,
    ) -> None:
        self._fragments, self._tensors, self._trained, self._copies = fragments, tensors, trained, copies

    def copy(self, fragment: int, out: Tensor) -> Ready:
        shape = self._fragments[fragment]
        return self._copies.gather(shape, self._tensors if shape.buffers else gradients(shape, self._trained), out)

    def load(self, fragment: int, value: Tensor, mix: float) -> None:
        scatter(self._fragments[fragment], self._copies.to_device(value), self._tensors)

    def put_back(self, fragments: Collection[int]) -> None:
        """Nothing is trained here."""

    def complete(self) -> None:
        """Nothing follows."""

    def first_value(self, fragment: int) -> Tensor:
        return _gathered(self._fragments[fragment], self._tensors)


class MeanGradients(_Agreed):
    """ssgd with an optimizer at every worker: when backward has ended, every gradient is the mean.

    A parameter that took no part anywhere keeps its gradient of None, and one that did somewhere has the mean everywhere: the
    last fragment says how many workers had one.
    """

    def __init__(
        self,
        fragments: Sequence[Fragment],
        tensors: Mapping[str, Tensor],
        trained: Mapping[str, nn.Parameter],
        copies: HostCopies,
    ) -> None:
        """`fragments` end with the one that `presence_of` makes."""
        self._fragments, self._tensors, self._trained, self._copies = fragments, tensors, trained, copies
        self._made: dict[str, Tensor] = {}
        self._present = torch.zeros(len(trained))

    @staticmethod
    def presence_of(trained: Mapping[str, nn.Parameter]) -> Fragment:
        """The fragment that says which parameters took part, averaged as buffers are."""
        return Fragment((Piece(PRESENT, 0, len(trained)),), torch.float32, buffers=True)

    def copy(self, fragment: int, out: Tensor) -> Ready:
        shape = self._fragments[fragment]
        if shape.pieces[0].name == PRESENT:
            out.copy_(torch.tensor([float(p.grad is not None) for p in self._trained.values()]))
            return done
        return self._copies.gather(shape, self._tensors if shape.buffers else gradients(shape, self._trained), out)

    def load(self, fragment: int, value: Tensor, mix: float) -> None:
        shape = self._fragments[fragment]
        if shape.pieces[0].name == PRESENT:
            self._present = value.clone()
            return
        value = self._copies.to_device(value)
        if shape.buffers:
            scatter(shape, value, self._tensors)
        else:
            scatter(shape, value, {piece.name: self._gradient(piece.name) for piece in shape.pieces})

    def _gradient(self, name: str) -> Tensor:
        """Where the mean goes: into the gradient that is there, or into a new one, which counts if others had one."""
        gradient = self._trained[name].grad
        if gradient is not None:
            return gradient
        return self._made.setdefault(name, torch.zeros_like(self._trained[name]))

    def put_back(self, fragments: Collection[int]) -> None:
        """Nothing is trained here."""

    def complete(self) -> None:
        if self._made:
            present = dict(zip(self._trained, self._present.unbind(), strict=True))
            for name, gradient in self._made.items():
                if float(present[name]) > 0:
                    self._trained[name].grad = gradient
            self._made = {}

    def first_value(self, fragment: int) -> Tensor:
        shape = self._fragments[fragment]
        if shape.buffers and shape.pieces[0].name != PRESENT:
            return _gathered(shape, self._tensors)
        return torch.zeros(shape.numel, dtype=shape.dtype)


def _gathered(fragment: Fragment, tensors: Mapping[str, Tensor]) -> Tensor:
    value = torch.empty(fragment.numel, dtype=fragment.dtype)
    gather(fragment, tensors, value)
    return value
