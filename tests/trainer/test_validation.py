"""Validation by several workers is validation by one: each sample once, the same bits, and nobody waits for anybody."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scripts import Scripts, drawn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from roadtrain.errors import PeerError, UsageError
from roadtrain.trainer.callbacks import Callback
from roadtrain.trainer.trainer import Trainer
from roadtrain.trainer.validation import LOOKED_AT, Part, chunks_of

FEATURES, CLASSES, BATCH = 6, 3, 8


def data(size: int = 203, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    return TensorDataset(x, (x[:, :CLASSES] + torch.randn(size, CLASSES, generator=generator)).argmax(1))


def make() -> nn.Module:
    return drawn(lambda: nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Dropout(0.5)))


COMPARED = LOOKED_AT + 1
"""Samples on which workers see, before, whether they mean the same."""


class Counted:
    """A loss that notes what it was computed on in validation, by thread."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        logits = model(batch[0])
        if not torch.is_grad_enabled():
            self.seen.setdefault(threading.get_ident(), []).append(len(batch[0]))
        right = (logits.argmax(1) == batch[1]).double()
        per_class = (right[batch[1] == 0].sum(), (batch[1] == 0).sum())
        return functional.cross_entropy(logits, batch[1]), {"accuracy": right.mean(), "of_the_first": per_class}


class Hits:
    """A metric with a state, as torchmetrics writes one."""

    def __init__(self, reduction: str = "dim_zero_sum") -> None:
        def reduce(found: Tensor) -> Tensor:
            raise AssertionError("nobody calls it: its name says what it does")

        def gather(found: list[Tensor]) -> Tensor:
            raise AssertionError("nobody calls it: its name says what it does")

        reduce.__name__, gather.__name__ = reduction, "dim_zero_cat"
        self._reductions = {"hits": reduce, "count": reduce, "scores": gather}
        self.reset()

    def reset(self) -> None:
        self.hits, self.count = torch.tensor(0), torch.tensor(0)
        self.scores: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.hits += (logits.argmax(1) == targets).sum()
        self.count += len(targets)
        self.scores.append(logits[:, 0])

    def compute(self) -> dict[str, Tensor]:
        scores = torch.cat(self.scores)
        order = torch.arange(1, len(scores) + 1, dtype=scores.dtype)
        return {"rate": self.hits / self.count, "order": (scores * order).sum()}


def trainer_of(loss: Any, **more: Any) -> Trainer:
    model = make()
    settings = {"sync": "ssgd", "batch": BATCH, **more}
    return Trainer(model, loss, SGD(model.parameters(), lr=0.1), **settings)


def alone(scripts: Scripts, held_out: Dataset[Any] | None = None) -> dict[str, float]:
    """The figures at a single worker."""
    return scripts.run(lambda rank: trainer_of(Counted()).validate(held_out or data()), 1)[0]


def validated(scripts: Scripts, workers: int, **more: Any) -> tuple[list[dict[str, float]], list[int]]:
    """Figures at each worker, and how many samples each looked at."""
    loss = Counted()

    def script(rank: int) -> dict[str, float]:
        trainer = trainer_of(loss, **{name: make() for name, make in more.items()})
        trainer.fit(data(64, seed=2), epochs=1)
        return trainer.validate(data())

    found = scripts.run(script, workers)
    return found, [sum(seen) for seen in loss.seen.values()]


def test_figures_do_not_depend_on_how_many_compute_them(scripts: Scripts) -> None:
    """To the bit, as 203 samples in batches of 8 are cut in the same way; a (sum, count) is of its own count."""
    one = trainer_of(Counted())
    expected = one.validate(data())
    with torch.no_grad():
        logits = one.model.eval()(data().tensors[0])
        targets = data().tensors[1]
    right = (logits.argmax(1) == targets).double()
    assert expected["loss"] == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-12)
    assert expected["accuracy"] == pytest.approx(float(right.mean()), rel=1e-12)
    assert expected["of_the_first"] == pytest.approx(float(right[targets == 0].mean()), rel=1e-12)

    def script(rank: int) -> dict[str, float]:
        return trainer_of(Counted()).validate(data())

    assert scripts.run(script, 3) == [expected] * 3
    assert scripts.run(script, 2) == [expected] * 2


def test_each_worker_computes_a_part(scripts: Scripts) -> None:
    figures, seen = validated(scripts, 3)
    assert figures[0] == figures[1] == figures[2]
    assert len(seen) <= 3
    assert 203 <= sum(seen) <= 203 + 2 * 3 * BATCH, "but for the last ones, each sample is looked at once"


def test_what_is_asked_again_is_computed_again(scripts: Scripts) -> None:
    """Parameters are not all that a model goes by, and the samples that stand for all are not all of them."""
    others = data()
    others.tensors[1][100] = (others.tensors[1][100] + 1) % CLASSES

    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.temperature = make(), 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) / self.temperature

    def script(rank: int) -> list[float]:
        model = Tempered()
        trainer = Trainer(model, Counted(), SGD(model.parameters(), lr=0.1), sync="ssgd", batch=BATCH)
        found = [trainer.validate(data())["loss"], trainer.validate(others)["loss"]]
        for model.temperature in (2.0, 0.5):
            found.append(trainer.validate(data())["loss"])
        return found

    [expected] = scripts.run(script, 1)
    assert len(set(expected)) == 4
    assert scripts.run(script, 3) == [expected] * 3


def test_who_validates_more_often_is_not_answered_with_another_model(scripts: Scripts) -> None:
    def script(rank: int) -> list[float]:
        model = make()

        def loss(model: nn.Module, batch: Any) -> Tensor:
            return functional.cross_entropy(model(batch[0]) * scale[0], batch[1])

        scale = [1.0]
        trainer = Trainer(model, loss, SGD(model.parameters(), lr=0.1), sync="ssgd", batch=BATCH)
        if rank == 0:
            trainer.validate(data())
        found: list[float] = []
        for scale[0] in (1.0, 3.0):
            found.append(trainer.validate(data())["loss"])
        return found

    [expected] = scripts.run(script, 1)
    assert scripts.run(script, 2) == [expected] * 2


def test_a_worker_that_validates_by_itself_waits_for_nobody(scripts: Scripts) -> None:
    loss = Counted()

    def script(rank: int) -> dict[str, float]:
        trainer = trainer_of(loss)
        return trainer.validate(data()) if rank == 0 else {}

    found, _ = scripts.run(script)
    assert found == alone(scripts)
    assert [sum(seen) for seen in loss.seen.values()] == [203 + COMPARED]


def test_nobody_answers_and_each_computes_all(scripts: Scripts) -> None:
    loss = Counted()
    found = scripts.run(lambda rank: trainer_of(loss).validate(data()), answers=False)
    assert found[0] == found[1] == alone(scripts)
    assert [sum(seen) for seen in loss.seen.values()] == [203 + COMPARED] * 2


def test_other_models_and_other_samples_are_not_mixed(scripts: Scripts) -> None:
    """At the same time each of the workers validates something else."""

    def other(rank: int) -> TensorDataset:
        return data(seed=1 + rank % 2)

    def script(rank: int) -> dict[str, float]:
        trainer = trainer_of(Counted())
        if rank > 1:
            with torch.no_grad():
                trainer.model[0].bias += 1.0  # type: ignore[index,union-attr]
        return trainer.validate(other(rank))

    found = scripts.run(script, 4)
    for rank, figures in enumerate(found):
        assert figures == scripts.run(lambda _, rank=rank: script(rank), 1)[0], rank


@pytest.mark.parametrize("sync", ["localsgd:4", "asgd"])
def test_between_agreements_each_looks_at_its_own_model(scripts: Scripts, sync: str) -> None:
    def script(rank: int) -> tuple[float, float]:
        trainer = trainer_of(Counted(), sync=sync, log_every=1)
        found: list[float] = []

        class Looking(Callback):
            def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
                if step == 2:
                    held_out = data()
                    model = trainer.model.eval()
                    found.append(trainer.validate(held_out)["loss"])
                    with torch.no_grad():
                        found.append(float(functional.cross_entropy(model(held_out.tensors[0]), held_out.tensors[1])))

        trainer._callbacks = (Looking(),)
        trainer.fit(data(64, seed=2), steps=4)
        return found[0], found[1]

    for got, own in scripts.run(script):
        assert got == pytest.approx(own, rel=1e-12)


def test_metrics_with_a_state_are_put_together_in_order(scripts: Scripts) -> None:
    one = trainer_of(Counted(), metrics={"hits": Hits()}).validate(data())
    figures, _ = validated(scripts, 3, metrics=lambda: {"hits": Hits()})
    assert {"hits_rate", "hits_order", "loss"} <= figures[0].keys()
    assert figures[0] == figures[1] == figures[2]
    alone = scripts.run(lambda rank: trainer_of(Counted(), metrics={"hits": Hits()}).validate(data()), 2)
    assert alone == [one, one]
    logits = make().eval()(data().tensors[0]).detach()
    assert one["hits_rate"] == pytest.approx(float((logits.argmax(1) == data().tensors[1]).double().mean()), rel=1e-6)
    assert one["hits_order"] == pytest.approx(float((logits[:, 0] * torch.arange(1, 204)).sum()), rel=1e-12)


def test_of_other_metrics_every_worker_updates_one_with_all(scripts: Scripts) -> None:
    loss, metric = Counted(), Hits(reduction="dim_zero_mean")
    found = scripts.run(lambda rank: trainer_of(loss, metrics={"hits": metric}).validate(data()))
    assert [sum(seen) for seen in loss.seen.values()] == [203, 203]
    assert found[0] == found[1]
    assert found[0]["hits_rate"] > 0
    assert metric.count == 0, "the person's own stays as it is"


def test_what_a_metric_is_given_may_be_said(scripts: Scripts) -> None:
    def outputs(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.one_hot(batch[1], CLASSES).double(), batch[1]

    assert trainer_of(Counted(), metrics={"hits": Hits()}, outputs=outputs).validate(data())["hits_rate"] == 1.0


class Tables(Dataset[Mapping[str, Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> Mapping[str, Tensor]:
        return {"x": torch.ones(FEATURES, dtype=torch.float64)}


def test_what_a_metric_cannot_be_given_is_said(scripts: Scripts) -> None:
    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return model(batch["x"]).mean()

    with pytest.raises(UsageError) as refused:
        trainer_of(loss, metrics={"hits": Hits()}).validate(Tables())
    assert "outputs=" in refused.value.line()

    class Many(Hits):
        def compute(self) -> Any:
            return torch.ones(3)

    with pytest.raises(UsageError, match="computes 3 numbers"):
        trainer_of(Counted(), metrics={"many": Many()}).validate(data())


class Stream(IterableDataset[Any]):
    def __iter__(self):
        return iter([data(11)[number] for number in range(11)])

    def __len__(self) -> int:
        return 11


def test_a_stream_every_worker_reads_by_itself(scripts: Scripts) -> None:
    """Its length, if it has one, does not say how to cut it."""
    found = scripts.run(lambda rank: trainer_of(Counted()).validate(Stream()))
    assert found[0] == found[1]
    assert found[0]["loss"] == pytest.approx(alone(scripts, data(11))["loss"], rel=1e-12)


def test_random_numbers_of_the_training_stay_as_they_were(scripts: Scripts) -> None:
    """Which part a worker computes depends on the others: it must not matter to dropout."""

    class Noisy(Tables):
        def __getitem__(self, number: int) -> Mapping[str, Tensor]:
            return {"x": torch.rand(FEATURES, dtype=torch.float64)}

    trainer = trainer_of(lambda model, batch: model(batch["x"]).mean())
    torch.manual_seed(5)
    trainer.validate(Noisy())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(("batches", "chunks"), [(1, 1), (2, 2), (32, 32), (64, 64), (625, 63)])
def test_chunks_hold_every_batch_once_in_order(batches: int, chunks: int) -> None:
    found = chunks_of(batches)
    assert len(found) == chunks
    assert [number for chunk in found for number in chunk] == list(range(batches))


def test_a_part_travels_as_it_is_and_nothing_else_is_taken_for_one() -> None:
    part = Part({"loss": (1 / 3, 7.0), "nan": (float("nan"), 1.0)}, ({"a": torch.arange(3)}, {"b": torch.ones(0, 2)}))
    came = Part.unpacked(part.packed(), 2)
    assert came.totals["loss"] == part.totals["loss"]
    assert torch.equal(came.states[0]["a"], torch.arange(3))
    assert came.states[1]["b"].shape == (0, 2)
    for body in (b"", part.packed()[:-3], b"\x80\x04K\x01."):
        with pytest.raises(PeerError):
            Part.unpacked(body, 2)
    with pytest.raises(PeerError):
        Part.unpacked(part.packed(), 1)


def test_a_state_of_another_shape_is_refused() -> None:
    from roadtrain.trainer.validation_metrics import StateMetric

    metric = StateMetric("hits", Hits(), torch.device("cpu"))
    with pytest.raises(PeerError, match="another shape or kind"):
        metric.load([{"hits": torch.ones(4), "count": torch.tensor(1)}])


def test_torchmetrics_are_such_metrics(scripts: Scripts) -> None:
    classification = pytest.importorskip("torchmetrics.classification")

    def metrics() -> dict[str, Any]:
        return {
            "accuracy": classification.MulticlassAccuracy(CLASSES, average="micro"),
            "auroc": classification.MulticlassAUROC(CLASSES),
        }

    trainer = trainer_of(lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]), metrics=metrics())
    assert all(metric.mergeable for metric in trainer._validation._metrics)
    one = trainer.validate(data())
    whole = metrics()["auroc"]
    whole.update(trainer.model.eval()(data().tensors[0]), data().tensors[1])
    assert one["auroc"] == pytest.approx(float(whole.compute()), rel=1e-6)
    loss = Counted()
    found = scripts.run(lambda rank: trainer_of(loss, metrics=metrics()).validate(data()), 3)
    assert found[0] == found[1] == found[2]
    assert found[0]["auroc"] == one["auroc"]
    assert found[0]["accuracy"] == pytest.approx(one["accuracy"])


def test_a_collection_of_torchmetrics_every_worker_goes_through_alone(scripts: Scripts) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    accuracy = torchmetrics.classification.MulticlassAccuracy
    both = torchmetrics.MetricCollection({"micro": accuracy(CLASSES, average="micro"), "macro": accuracy(CLASSES)})
    figures = trainer_of(Counted(), metrics={"accuracy": both}).validate(data())
    assert figures["accuracy_micro"] == pytest.approx(figures["accuracy"], rel=1e-6)
    assert figures["accuracy_macro"] > 0
