"""A script that runs as a feeder: it makes its model, its optimizer and its data, and serves that where workers would train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from torch import Tensor
from torch.optim import Optimizer

from roadtrain.batches.work import Work
from roadtrain.data.remote_data import RemoteData
from roadtrain.data.source import Source
from roadtrain.data.supply import OwnSupply
from roadtrain.loop.agreement import Agreement, Alone
from roadtrain.loop.attached import Attached, Stopped
from roadtrain.loop.clip import Clip
from roadtrain.session.worker_context import FeederContext


class FeederSupply:
    """Whoever takes a batch here never has it: the loader's source is served until the run is over."""

    fed = True

    def __init__(self, feeding: FeederContext) -> None:
        self._feeding = feeding

    def know(self, name: str, source: Source) -> None:
        """See `Supply`."""
        self._feeding.know(name, source)

    def take(self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]]) -> NoReturn:
        """See `Supply`. Raises Stopped at the end."""
        self._feeding.know(name, source)
        self._feeding.serve()
        raise Stopped

    def receive(self, name: str, upcoming: Callable[[int], Sequence[Work]]) -> NoReturn:
        """See `Supply`: a feeder has no more of it than others. Raises Stopped."""
        raise Stopped

    def remote(self, data: RemoteData) -> NoReturn:
        """See `Supply`. Raises Stopped, as for `receive`."""
        raise Stopped


class BesideSupply(OwnSupply):
    """What is looked at before the training begins is looked at here too; what is looked at amid it workers ask for."""

    def __init__(self, feeding: FeederContext) -> None:
        super().__init__(skips=False, bad=lambda index, why: None)
        self._feeding = feeding

    def know(self, name: str, source: Source) -> None:
        """See `Supply`."""
        self._feeding.know(name, source)


class FeederFleet:
    """Nothing is trained here."""

    rank, world, stopped = 0, 1, True
    agreed, folder, writes = 0, None, False

    def __init__(self, optimizer: Optimizer, clip: Clip, feeding: FeederContext) -> None:
        self.agreement: Agreement = Alone(optimizer, clip, lambda: None)
        self.supply = FeederSupply(feeding)
        self.beside = BesideSupply(feeding)

    def begin(self, attached: Attached) -> None:
        """Nothing is to be agreed on."""

    def took(self, samples: int) -> None:
        """Nothing is."""

    def agreed_values(self) -> dict[str, Tensor]:
        return {}

    def save(self) -> None:
        """Workers do."""

    def agree_finally(self) -> None:
        self.agreement.remove()

    def conclude(self, figures: dict[str, float]) -> None:
        """Workers do."""

    def end(self) -> None:
        """Nobody waits."""

    def together(self, evaluation: str, chunks: int, compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
        """Nothing is looked at here: the script ends at its first loader. Raises Stopped."""
        raise Stopped

    def event(self, name: str, **details: Any) -> None:
        """Workers tell."""

    def local_state(self) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """There is none."""

    def counted(self) -> dict[str, Any]:
        return {}

    def log(self, record: dict[str, Any]) -> None:
        """There is no step to log."""
