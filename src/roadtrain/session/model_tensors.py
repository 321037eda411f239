"""What of a model travels, decided once: a later change of a buffer's values changes nothing about it, nor does a
parameter that is frozen then; what would, is refused (`check`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import xxhash
from torch import Tensor, nn

from roadtrain.codec import raw_bytes
from roadtrain.session.unchanged import Unchanged, home_of
from roadtrain.sync.fragment import travelling


class ModelTensors(Mapping[str, Tensor]):
    """The trained parameters and averaged buffers of `model` by name, as they are now: modules may put others in their place."""

    def __init__(self, model: nn.Module) -> None:
        parameters, buffers = travelling(model)
        named = dict(model.named_parameters())
        self.trained: dict[str, nn.Parameter] = {name: named[name] for name in parameters}
        self.buffers = tuple(buffers)
        self._model = model
        self._frozen = {name: parameter for name, parameter in named.items() if name not in self.trained}
        self._homes = {name: home_of(model, name) for name in self.buffers}
        self._unchanged = Unchanged(model, self._frozen, buffers)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.trained:
            return self.trained[name].detach()
        module, attribute = self._homes[name]
        return module.get_buffer(attribute)

    def __iter__(self) -> Iterator[str]:
        yield from self.trained
        yield from self.buffers

    def __len__(self) -> int:
        return len(self.trained) + len(self.buffers)

    def check(self) -> None:
        """Raises UsageError when the model is no more what was agreed on at the start."""
        self._unchanged.check()

    # ------------------------------------------------------------------------------------------------ whole states

    def frozen(self) -> dict[str, Tensor]:
        """Copies of the parameters that are not trained, on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self._frozen.items()}

    def rest(self) -> dict[str, Tensor]:
        """What of the model's state neither travels nor is frozen: counters, masks."""
        state = self._model.state_dict(keep_vars=True)
        kept = (self.keys() | self._frozen.keys()) if state else set[str]()
        return {
            name: tensor.detach()
            for name, tensor in state.items()
            if name not in kept and isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter)
        }

    def given(self, *, model: bool, frozen: bool) -> dict[str, dict[str, Tensor]]:
        """What of the state a newcomer is given, by kind and name: the rest, and if asked for what is trained, and frozen."""
        found = {"rest": self.rest()}
        if model:
            found["model"] = dict(self)
        if frozen:
            found["frozen"] = {name: parameter.detach() for name, parameter in self._frozen.items()}
        return found

    def parts(self) -> dict[str, list[Tensor]]:
        """Every tensor of the model's state: what is trained (with all buffers, whole numbers too), and what is frozen."""
        found: dict[str, list[Tensor]] = {"trained": [], "frozen": []}
        seen: set[int] = set()
        frozen = {id(parameter) for parameter in self._frozen.values()}
        for tensor in self._model.state_dict(keep_vars=True).values():
            if isinstance(tensor, Tensor) and id(tensor) not in seen and tensor.numel():
                seen.add(id(tensor))
                found["frozen" if id(tensor) in frozen else "trained"].append(tensor.detach())
        return found

    def digests(self) -> dict[str, str]:
        """A hash of each part's values."""
        return {name: digest_of(tensors) for name, tensors in self.parts().items()}

    def structure(self) -> str:
        """A hash of what the model is, whatever its values: names, shapes and dtypes."""
        digest = xxhash.xxh3_64()
        for name, tensor in self._model.state_dict().items():
            if isinstance(tensor, Tensor):
                digest.update(f"{name} {list(tensor.shape)} {tensor.dtype} {name in self.trained};".encode())
        return digest.hexdigest()


def digest_of(tensors: list[Tensor]) -> str:
    """A hash of values."""
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(flat_bytes(tensor))
    return digest.hexdigest()


def flat_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor as raw bytes, on the CPU; a copy where it lies otherwise in memory."""
    return raw_bytes(tensor.detach().cpu().contiguous().reshape(-1))


def load_bytes(tensors: list[Tensor], body: bytearray) -> None:
    """Write what `flat_bytes` gave of each, one after the other, back in place."""
    begin = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        values = torch.frombuffer(body, dtype=torch.uint8, count=size, offset=begin)
        with torch.no_grad():
            tensor.copy_(values.clone().view(tensor.dtype).view(tensor.shape))
        begin += size
