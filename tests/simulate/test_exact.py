"""What strategies compute, against plain loops, in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from fleets import fleet, workload
from torch import Tensor

from roadtrain.codec import parse as codec
from roadtrain.lease import Lease, WorkRecord
from roadtrain.membership.view import first_view
from roadtrain.message import Envelope, Leave, Left, Params, Part, Push, Remote, Replicate, Replicated
from roadtrain.plan import Plan, Straggler, parse
from roadtrain.simulate import Faults, Fleet, Quadratic, Simulation, Trace
from roadtrain.simulate.faults import NONE as NO_FAULTS
from roadtrain.simulate.invariants import Watch
from roadtrain.simulate.size import message_bytes
from roadtrain.simulate.tensors import INNER
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.sync.effects import Effects, Out
from roadtrain.sync.ledger import NONE, TensorLedger
from roadtrain.sync.owner import Owner
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer
from roadtrain.sync.room import Room
from roadtrain.sync.strategy import Strategy, strategy_for
from roadtrain.view import Member

SGD = parse('[optimizer]\nname = "sgd"\nlr = 0.05\n')
MOMENTUM = parse('[optimizer]\nname = "sgd"\nlr = 0.05\nmomentum = 0.9\nweight_decay = 0.01\n')
ADAMW = parse('[optimizer]\nname = "adamw"\nlr = 0.01\nweight_decay = 0.1\nbeta2 = 0.95\n')
COSINE = parse('[job]\nsteps = 20\n[optimizer]\nname = "sgd"\nlr = 0.05\nwarmup = 4\nschedule = "cosine"\n')
STEPS = 20
FLEET = fleet(3, speeds=(1.0, 2.5, 0.7))


def strategy(plan: Plan, name: str, *, damping: bool = False) -> Strategy:
    return strategy_for(replace(plan, sync=replace(plan.sync, strategy=name, damping=damping)))


def simulate(
    strategy: Strategy,
    problem: Quadratic,
    machines: Fleet,
    *,
    steps: int,
    sharded: bool = True,
    faults: Faults = NO_FAULTS,
    codec: str = "none",
    inner: OptimizerSpec = INNER,
) -> Trace:
    """A run of a problem; everyone gets to the end."""
    work = workload(problem, strategy, codec, inner)
    trace = Simulation(strategy, work, machines, steps=steps, sharded=sharded, faults=faults).run()
    assert trace.finished
    return trace


def assert_close(values: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for value, want in zip(values, wanted, strict=True):
        torch.testing.assert_close(value, want, rtol=0, atol=1e-9)


def quadratic(sizes: Sequence[int] = (5, 3, 4), pull: float = 1.0) -> Quadratic:
    return Quadratic(sizes, pull)


def even() -> Quadratic:
    """Every batch has the same size."""

    class Even(Quadratic):
        def samples(self, slot: int, batch: int) -> int:
            return 4

    return Even()


def uneven() -> Quadratic:
    """Batches of 1 and of 7 samples."""

    class Uneven(Quadratic):
        def samples(self, slot: int, batch: int) -> int:
            return (1, 7)[slot]

    return Uneven()


def plain_loop(
    work: Quadratic, workers: int, steps: int, make: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> list[Tensor]:
    """One process that sees every sample: torch's optimizer on the gradient of the mean loss of all workers' samples."""
    values = [work.initial(f) for f in range(len(work.fragments))]
    optimizer = make(values)
    for step in range(1, steps + 1):
        samples = [work.samples(w, step) for w in range(workers)]
        for f, value in enumerate(values):
            sums = [n * work.gradient(w, step, f, value) for w, n in enumerate(samples)]
            value.grad = torch.stack(sums).sum(0) / sum(samples)
        optimizer.step()
    return values


def sgd(values: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(values, lr=0.05)


def momentum(values: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(values, lr=0.05, momentum=0.9, weight_decay=0.01)


def adamw(values: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(values, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))


# ------------------------------------------------------------------------------------------------- synchronous


@pytest.mark.parametrize(("plan", "optimizer"), [(SGD, sgd), (MOMENTUM, momentum), (ADAMW, adamw)])
def test_ssgd_with_any_owners_is_one_loop_over_all_samples(
    plan: Plan, optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    work = quadratic()
    sharded = simulate(strategy(plan, "ssgd"), work, FLEET, steps=STEPS, sharded=True)
    central = simulate(strategy(plan, "ssgd"), work, FLEET, steps=STEPS, sharded=False)
    assert len(set(sharded.first_owners)) == 3
    assert set(central.first_owners) == {"w0"}
    assert_close(sharded.values, plain_loop(work, 3, STEPS, optimizer))
    for one, other in zip(sharded.values, central.values, strict=True):
        assert torch.equal(one, other)


def test_the_learning_rate_follows_the_schedule_of_the_plan() -> None:
    work = quadratic()
    trace = simulate(strategy(COSINE, "ssgd"), work, FLEET, steps=STEPS)
    warm = [0.05 * s / 4 for s in range(1, 5)]
    cosine = [0.05 * (0.1 + 0.45 * (1 + torch.cos(torch.tensor(torch.pi * s / 16)).item())) for s in range(1, 17)]

    def make(values: list[Tensor]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(values, lr=1.0)
        rates = iter(warm + cosine)
        optimizer.register_step_pre_hook(lambda *_: optimizer.param_groups[0].update(lr=next(rates)))
        return optimizer

    for value, want in zip(trace.values, plain_loop(work, 3, STEPS, make), strict=True):
        torch.testing.assert_close(value, want, rtol=0, atol=1e-6)


def test_ssp_0_is_ssgd() -> None:
    one = simulate(strategy(ADAMW, "ssp:0"), quadratic(), FLEET, steps=STEPS)
    two = simulate(strategy(ADAMW, "ssgd"), quadratic(), FLEET, steps=STEPS)
    assert_close(one.values, two.values)
    assert one.time_s == two.time_s


def test_localsgd_1_with_sgd_is_ssgd() -> None:
    inner = OptimizerSpec(name="sgd", lr=0.05)
    one = simulate(strategy(SGD, "localsgd:1"), quadratic(), FLEET, steps=STEPS, inner=inner)
    two = simulate(strategy(SGD, "ssgd"), quadratic(), FLEET, steps=STEPS)
    assert_close(one.values, two.values)


def test_diloco_with_outer_lr_1_and_no_momentum_is_localsgd() -> None:
    plan = replace(SGD, sync=replace(SGD.sync, outer_lr=1.0, outer_momentum=0.0))
    inner = OptimizerSpec(name="adamw", lr=0.05)
    one = simulate(strategy(plan, "diloco:4"), quadratic(), FLEET, steps=STEPS, inner=inner)
    two = simulate(strategy(SGD, "localsgd:4"), quadratic(), FLEET, steps=STEPS, inner=inner)
    assert_close(one.values, two.values)
    outer = replace(SGD, sync=replace(SGD.sync, outer_lr=0.7, outer_momentum=0.9))
    three = simulate(strategy(outer, "diloco:4"), quadratic(), FLEET, steps=STEPS, inner=inner)
    assert not torch.allclose(three.values[0], two.values[0])


def test_diloco_is_nesterov_on_the_mean_of_what_workers_moved() -> None:
    plan = replace(SGD, sync=replace(SGD.sync, outer_lr=0.7, outer_momentum=0.9))
    work, workers, every = even(), 2, 4
    trace = simulate(
        strategy(plan, f"diloco:{every}"),
        work,
        fleet(workers),
        steps=STEPS,
        inner=OptimizerSpec(name="sgd", lr=0.1),
    )
    for f, value in enumerate(trace.values):
        anchor = work.initial(f)
        outer = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
        for begin in range(0, STEPS, every):
            moved = torch.zeros_like(anchor)
            for worker in range(workers):
                local = anchor.clone()
                for step in range(begin + 1, begin + every + 1):
                    local -= 0.1 * work.gradient(worker, step, f, local)
                moved += (anchor - local) / workers
            anchor.grad = moved
            outer.step()
        torch.testing.assert_close(value, anchor, rtol=0, atol=1e-9)


def test_a_last_round_that_is_cut_short_is_still_agreed_on() -> None:
    work = even()
    trace = simulate(strategy(SGD, "localsgd:4"), work, fleet(2), steps=6, inner=OptimizerSpec(name="sgd", lr=0.1))
    assert trace.clocks[0] == {"w0": 2, "w1": 2}
    value = work.initial(0)
    for first, last in ((1, 4), (5, 6)):
        ends = [value.clone(), value.clone()]
        for worker, local in enumerate(ends):
            for step in range(first, last + 1):
                local -= 0.1 * work.gradient(worker, step, 0, local)
        value = (ends[0] + ends[1]) / 2
    torch.testing.assert_close(trace.values[0], value, rtol=0, atol=1e-9)


def test_a_batch_counts_by_its_samples() -> None:
    work = uneven()
    trace = simulate(strategy(SGD, "ssgd"), work, fleet(2), steps=1)
    start = work.initial(0)
    first, second = (work.gradient(w, 1, 0, start) for w in (0, 1))
    torch.testing.assert_close(trace.values[0], start - 0.05 * (first + 7 * second) / 8, rtol=0, atol=1e-12)
    same = simulate(strategy(SGD, "ssgd"), even(), fleet(2), steps=1)
    assert not torch.allclose(trace.values[0], same.values[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["localsgd:20", "diloco:20", "streaming:20"])
def test_machines_of_speeds_1_2_and_4_do_nine_tenths_of_what_they_could(name: str) -> None:
    """All batches that the steps of all workers make, by speed; and a loss in between moves the shares of those who stay."""
    by_speed = replace(SGD, sync=replace(SGD.sync, by_speed=True))
    chosen, steps = strategy(by_speed, name), 400
    machines = fleet(3, step_s=0.1, speeds=(1.0, 2.0, 4.0))
    simulation = Simulation(chosen, workload(even(), chosen), machines, steps=steps)
    trace = simulation.run()
    computed = [worker.computed for worker in simulation.workers]
    assert abs(sum(computed) - 3 * steps) <= 3
    assert sum(computed) / trace.time_s > 0.9 * (1 + 2 + 4) / 0.1
    simulation = Simulation(chosen, workload(even(), chosen), machines, steps=steps, faults=Faults(crashes=((8.0, 0),)))
    simulation.run()
    _, slower, faster = (worker.computed for worker in simulation.workers)
    assert faster == pytest.approx(2 * slower, rel=0.1)


def test_a_lost_worker_is_left_out_of_later_rounds_and_the_others_compute_what_it_left() -> None:
    work = quadratic()
    faults = Faults(crashes=((1.05, 2),))
    trace = simulate(strategy(SGD, "ssgd"), work, fleet(3, step_s=0.1), steps=STEPS, faults=faults)
    assert [worker.name for worker in trace.survivors] == ["w0", "w1"]
    rounds = trace.clocks[0]["w2"]
    assert 0 < rounds < STEPS
    taken = [[3 * step + worker for worker in range(3)] for step in range(rounds)]
    taken.append([3 * rounds, 3 * rounds + 1])  # the lost one held the third
    left = [3 * rounds + 2, *range(3 * rounds + 3, 3 * STEPS)]
    taken += [left[at : at + 2] for at in range(0, len(left), 2)]
    value = work.initial(0)
    for slices in taken:
        batches = [(number % 3, number // 3 + 1) for number in slices]
        samples = [work.samples(*batch) for batch in batches]
        gradients = [n * work.gradient(*batch, 0, value) for batch, n in zip(batches, samples, strict=True)]
        value = value - 0.05 * torch.stack(gradients).sum(0) / sum(samples)
    torch.testing.assert_close(trace.values[0], value, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------------ asynchronous


def leads(plan: Plan, name: str, machines: Fleet) -> tuple[dict[str, int], Trace]:
    """The most that each worker was ahead of the slowest, as it was told."""
    most: dict[str, int] = defaultdict(int)
    chosen = strategy(plan, name)
    simulation = Simulation(chosen, workload(quadratic(pull=0.0), chosen), machines, steps=30)
    watch = Watch(chosen, simulation.workers, lambda: simulation.view)

    def observe(now: float, worker: SimulatedWorker, effects: Effects) -> None:
        watch(now, worker, effects)
        for install in effects.installs:
            most[worker.name] = max(most[worker.name], install.lead)

    simulation.observe = observe
    trace = simulation.run()
    assert trace.finished
    return most, trace


SLOW = fleet(3, stragglers=(Straggler(worker=0, factor=6.0),))


@pytest.mark.parametrize("staleness", [1, 2, 5])
def test_ssp_lets_nobody_further_ahead_than_its_bound(staleness: int) -> None:
    most, _ = leads(SGD, f"ssp:{staleness}", SLOW)
    assert most["w1"] == most["w2"] == staleness


def test_asgd_lets_the_fast_run_on() -> None:
    most, _ = leads(SGD, "asgd", SLOW)
    assert most["w1"] > 10
    most, _ = leads(SGD, "ssgd", SLOW)
    assert set(most.values()) == {0}


def test_without_a_gate_the_run_ends_when_its_samples_are_in_not_when_the_slowest_has_done_its_share() -> None:
    _, free = leads(SGD, "asgd", SLOW)
    _, bound = leads(SGD, "ssp:2", SLOW)
    alone = 90 * 0.1 / (1 + 1 + 1 / 6)  # all slices, at the rate of all three
    assert free.time_s < 1.1 * alone
    assert bound.time_s > 4 * alone, "the straggler sets the pace"
    steps = [worker.computed for worker in free.survivors]
    assert sum(steps) == 90
    assert steps[0] < 10 < 35 < min(steps[1:])


@pytest.mark.parametrize(("name", "most"), [("asgd", 1.06), ("async-diloco:5", 1.15)])
@pytest.mark.parametrize("slow", [2.0, 5.0, 20.0])
def test_by_demand_nobody_waits_for_a_straggler_at_the_end(name: str, most: float, slow: float) -> None:
    machines = fleet(3, stragglers=(Straggler(worker=0, factor=slow),))
    chosen = strategy(SGD, name)
    simulation = Simulation(chosen, workload(quadratic(), chosen), machines, steps=60)
    assert simulation.run().time_s < most * 180 * 0.1 / (2 + 1 / slow)


def test_what_is_added_does_not_depend_on_the_order_of_plain_sgd() -> None:
    work = quadratic(pull=0.0)
    want = [work.initial(f) for f in range(3)]
    for worker in range(3):
        for step in range(1, 31):
            want = [value - 0.05 * work.gradient(worker, step, f, value) for f, value in enumerate(want)]
    for name in ("asgd", "ssp:3"):
        _, trace = leads(SGD, name, SLOW)
        assert_close(trace.values, want)


# --------------------------------------------------------------------------------- staleness, by hand


START = torch.tensor([1.0, 2.0], dtype=torch.float64)
GRADIENT = torch.tensor([0.5, -0.25], dtype=torch.float64)


def hand_owner(damping: bool) -> tuple[Owner, Out]:
    """An owner without a standby, asynchronous, SGD with lr 0.05, in a view of A and B."""
    chosen = strategy(SGD, "asgd", damping=damping)
    theta = START.clone()
    ledger = TensorLedger(theta, make_owner_optimizer(chosen.rule, theta), codec("none"), codec("none"), shared=False)
    owner = Owner(0, chosen, ledger, {"A": 0, "B": 0}, None, Room())
    out = Out()
    view = first_view([Member("A", 1), Member("B", 2)], [16], sharded=False)
    owner.join(replace(view, standbys=(None,)), out)
    return owner, out


def push(owner: Owner, worker: str, clock: int, base: int) -> Params:
    """Push the gradient; the answer that its worker gets."""
    out = Out()
    owner.push(worker, Push(0, clock, base, 1.0, NONE.encode(GRADIENT.clone())), out)
    (destination, answer), *rest = out.messages
    assert destination == worker
    assert rest == []
    assert isinstance(answer, Params)
    return answer


def test_staleness_counts_versions_between_reading_and_applying() -> None:
    owner, _ = hand_owner(damping=False)
    seen = [
        push(owner, "A", 1, base=0),
        push(owner, "B", 1, base=0),  # read before A's came in
        push(owner, "A", 2, base=1),  # B's came in between
        push(owner, "A", 3, base=3),
        push(owner, "A", 4, base=4),
        push(owner, "B", 2, base=2),  # three of A's since
    ]
    assert [(a.version, a.staleness) for a in seen] == [(1, 0), (2, 1), (3, 1), (4, 0), (5, 0), (6, 3)]
    assert [a.lead for a in seen] == [1, 0, 1, 2, 3, 0]
    torch.testing.assert_close(owner.ledger.theta, START - 0.05 * 6 * GRADIENT, rtol=0, atol=1e-12)


def test_damping_divides_a_contribution_by_its_staleness() -> None:
    owner, _ = hand_owner(damping=True)
    moved: list[float] = []
    for worker, clock, base in (("A", 1, 0), ("B", 1, 0), ("A", 2, 0), ("A", 3, 0), ("B", 2, 4)):
        before = owner.ledger.theta.clone()
        push(owner, worker, clock, base)
        moved.append(float(((before - owner.ledger.theta) / (0.05 * GRADIENT)).mean()))
    # Staleness 0, 1, 2, 3, 0: fresh contributions count in full.
    assert moved == pytest.approx([1.0, 1.0, 1 / 2, 1 / 3, 1.0], abs=1e-9)


# ------------------------------------------------------------------------------------------------------ links


def bytes_of(message: Remote) -> int:
    """What a message of w0 or w1 takes in a link's first run of views."""
    return message_bytes(Envelope("w0", "w1", 1, 1, message), 256 * 1024)


@pytest.mark.parametrize("rate", [None, 1e5, 1e3])
def test_a_round_takes_the_time_of_its_messages(rate: float | None) -> None:
    # w0 owns the one fragment and w1 stands by. The push of w1 and the record that answers it carry 10 values each;
    # w0 goes on when the standby's receipt, a bare header, is back. All that takes less than the first repeat's second. The push
    # says what it was computed on, and the record what each holds then.
    step_s, delay_s, rounds = 0.1, 0.05, 7
    packet = NONE.encode(torch.zeros(10, dtype=torch.float64))
    own, other = (Lease(6, 1, 1),), (Lease(7, 1, 1),)
    push = bytes_of(Push(0, 7, 6, 1.0, packet, leases=other, steps=1))
    parts = (Part("w0", 7, 1.0, 0, packet, leases=own), Part("w1", 7, 1.0, 0, None, leases=other))
    record = bytes_of(Replicate(0, 7, 6, parts, None, 1, work=WorkRecord(7, (("w0", own), ("w1", other)))))
    receipt = bytes_of(Replicated(0, 7))
    leave, left = bytes_of(Leave(0, rounds, rounds, 0)), bytes_of(Left(0, rounds, rounds, "", None))
    times = [0.0 if rate is None else size / rate for size in (push, record, receipt, leave, left)]
    machines = fleet(2, step_s=step_s, rate_bytes_per_s=rate, delay_s=delay_s)
    trace = simulate(strategy(SGD, "ssgd"), quadratic((10,)), machines, steps=rounds)
    wanted = rounds * (step_s + 2 * delay_s + times[0] + times[1]) + delay_s + times[2]
    wanted += (
        max(0.0, times[3] - times[2]) + times[4] + delay_s
    )  # nobody contributes any more, which one has to be told
    # The first round names version 0 and slice 0, which are left out; after the last nobody holds any.
    few = 24  # bytes
    assert trace.time_s == pytest.approx(wanted, abs=1e-9 if rate is None else 2 * few / rate)
    assert trace.sent_bytes["w0"] == pytest.approx(rounds * record + left, abs=few)
    assert trace.sent_bytes["w1"] == pytest.approx(rounds * (push + receipt) + leave, abs=few)


def test_messages_to_one_receiver_queue_on_its_link() -> None:
    # Three workers push to one owner at the same moment: its downlink takes one packet after the other.
    rate, values = 1000.0, 100
    busy = 8 * values / rate
    chosen = strategy(SGD, "asgd")
    few, many = (
        simulate(chosen, quadratic((values,)), fleet(n, rate_bytes_per_s=rate, delay_s=0.0), steps=1, sharded=False)
        for n in (2, 4)
    )
    assert many.time_s - few.time_s > 2 * busy


def test_int8_crosses_a_slow_link_in_a_fraction_of_the_time() -> None:
    machines = fleet(2, step_s=0.0, rate_bytes_per_s=1e6, delay_s=0.0)
    work = quadratic((2048,))
    chosen = strategy(SGD, "ssgd")
    plain = simulate(chosen, work, machines, steps=5, codec="none")
    small = simulate(chosen, work, machines, steps=5, codec="int8")
    # int8: 1 byte for each value and 2 for each 256 of them, where float64 takes 8; the record holds w0's packet alone.
    header = 140  # bytes, about
    want = (2048 + 16 + header) / (8 * 2048 + header)
    assert small.time_s / plain.time_s == pytest.approx(want, rel=0.02)
