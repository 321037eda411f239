"""Throughput of every codec on one thread, beside a copy of the same memory.

    python bench/codecs.py

GB/s counts the float32 bytes that go in (encode) or come out (decode). `feedback` is an encode with error feedback;
an unbiased codec has none, and that of `dgc` is timed where its warm-up begins, at a quarter of the values. Decoding
writes into memory that exists. `ratio` is the size of the vector over the size of its packet.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from roadtrain.codec import CODECS, Feedback, parse

OWN = Path(__file__).parents[1] / "examples" / "my_codec.py"
VALUES = 10_000_000
ROUNDS = 7
SPECS = [name for name in CODECS if name not in ("topk", "dgc", "powersgd")]
SPECS += ["topk:0.01", "topk:0.05", "topk:0.01+int8", "topk:0.05+onebit", "dgc:0.01", "dgc:0.01+int8"]
SPECS += ["powersgd:1", "powersgd:4", "powersgd:4+int8", f"{OWN}:Ternary"]


def speed(run: Callable[[], object]) -> float:
    """GB/s of float32 that `run` takes through, the median of some rounds after one to warm up."""
    run()
    seconds: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 4 * VALUES / statistics.median(seconds) / 1e9


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(VALUES, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    print(f"GB/s of float32, {VALUES:,} values, one thread")
    print(f"{'codec':18}{'encode':>10}{'feedback':>10}{'decode':>10}{'ratio':>10}")
    print(f"{'memcpy':18}{speed(lambda: out.copy_(x)):10.1f}{'':10}{speed(lambda: out.copy_(x)):10.1f}{1:10.1f}")
    for spec in SPECS:
        codec = parse(spec)
        feedback = Feedback(codec, VALUES, x.dtype)
        packet = codec.encode(x)
        encode = speed(lambda codec=codec: codec.encode(x))
        fed = f"{speed(lambda feedback=feedback: feedback.encode(x)):10.1f}" if codec.biased else f"{'-':>10}"
        decode = speed(lambda codec=codec, packet=packet: codec.decode(packet, out))
        print(f"{codec.spec:18}{encode:10.1f}{fed}{decode:10.1f}{4 * VALUES / packet.nbytes:10.1f}")


if __name__ == "__main__":
    main()
