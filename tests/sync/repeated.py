"""Commits of every rule with every codec, as digests by name in JSON: run on machines, or as if on machines, that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
import xxhash
from torch import Tensor

from roadtrain.codec import Codec, Feedback, Packet, pair, raw_bytes
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.onebit_adam import SIGNS, RepeatedLedger
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer

SIZE, ROUNDS, WORKERS = 2500, 3, 2
RULES = {
    "sgd": OptimizerSpec(name="sgd", lr=0.1),
    "momentum": OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, averaged=1),
    "nesterov": OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, nesterov=True),
    "decay": OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01, warmup=3),
    "adam": OptimizerSpec(name="adam", lr=0.01, weight_decay=0.01),
    "adamw": OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.01, total=9, cosine=True),
    "average": OptimizerSpec(name="average"),
    "delayed-nesterov": OptimizerSpec(name="delayed-nesterov", lr=0.7, momentum=0.9),
}
CODECS = [
    "none",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "topk:0.1",
    "topk:0.1+int8",
    "onebit",
    "dgc:0.1",
    "powersgd:2",
    "powersgd:2+int4",
]


def vectors(count: int) -> Iterator[Tensor]:
    """Values in -1 to 1, drawn without arithmetic that differs (as Gaussian draws do)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.rand(SIZE, generator=generator).mul_(2).sub_(1)


def digest(*packets: Packet) -> str:
    return xxhash.xxh3_64_hexdigest(b"".join(bytes(raw_bytes(part)) for packet in packets for part in packet.parts))


def state(ledger: TensorLedger) -> str:
    return digest(*(packet for _, packet in ledger.snapshot()))


def committed(rule: OptimizerSpec, codecs: tuple[Codec, Codec], shared: bool) -> str:
    """What the workers sent, what was committed and answered, and the state, over a few rounds."""
    theta, *made = vectors(1 + ROUNDS * WORKERS)
    ledger = TensorLedger(theta, make_owner_optimizer(rule, theta), *codecs, shared=shared)
    senders = [Feedback(codecs[0], SIZE, torch.float32) for _ in range(WORKERS)]
    seen: list[str] = []
    for clock in range(1, ROUNDS + 1):
        packets = [sender.encode(made.pop()) for sender in senders]
        mean = ledger.aggregate(packets, [1.0, 2.0])
        condensed, mean = ledger.condense(mean)
        ledger.commit(mean, clock, 1.0 if shared else 1 / 3, 1 if shared else 3)
        seen += [digest(*packets, condensed, ledger.answer("a", clock).packet), state(ledger)]
    return " ".join(seen)


def repeated() -> str:
    """1-bit Adam before and after its freeze, at the owner and at a replica."""
    (theta, *made), spec = vectors(1 + 2 * ROUNDS), OptimizerSpec(name="onebit-adam", lr=0.01, freeze=ROUNDS)
    owner, replica = (RepeatedLedger(theta.clone(), spec) for _ in range(2))
    left = Feedback(SIGNS, SIZE, torch.float32)
    seen: list[str] = []
    for clock, gradient in enumerate(made, start=1):
        packet = left.encode(gradient) if owner.up.biased else owner.up.encode(gradient)
        owner.commit(owner.aggregate([packet], [1.0]), clock)
        answer = owner.answer("a", clock).packet
        replica.repeat(answer)
        seen += [digest(packet, answer), state(owner), state(replica)]
    return " ".join(seen)


def fused() -> str:
    """What differs on a CPU with other instructions."""
    one, other = vectors(2)
    return xxhash.xxh3_64_hexdigest(raw_bytes(one.add(other, alpha=0.1)))


def main() -> None:
    found = {"fused": fused(), "onebit-adam": repeated()}
    for spec in CODECS:
        for name, rule in RULES.items():
            for shared in (True, False):
                found[f"{name}, {spec}, {'rounds' if shared else 'each'}"] = committed(rule, pair(spec), shared)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
