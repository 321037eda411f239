"""A person's own codec: what is wrong with it is told before a run, and what a peer sends cannot harm through it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import Codec, Feedback, Packet, check, parse
from roadtrain.errors import PacketError, UsageError

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_codec.py"
HALF = """
import torch

class Half:
    feedback = False

    def encode(self, x):
        return (x.half(),)

    def decode(self, sections, numel):
        return sections[0].view(torch.float16).float()
"""


def codec_of(folder: Path, source: str, name: str = "Half") -> Codec:
    (folder / "own.py").write_text(source)
    return parse(f"{folder / 'own.py'}:{name}")


def gauss(numel: int) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(0))


def test_a_class_is_a_codec(tmp_path: Path) -> None:
    codec = codec_of(tmp_path, HALF)
    x = gauss(1000)
    packet = codec.encode(x)
    check(packet, codec, 1000, torch.float32)
    assert torch.equal(codec.decode(packet), x.half().float())
    assert packet.nbytes == 2001
    assert not codec.biased
    assert codec_of(tmp_path, HALF.replace("feedback = False", "")).biased


def test_it_writes_what_topk_keeps(tmp_path: Path) -> None:
    (tmp_path / "a+b.py").write_text(HALF)
    codec = parse(f"topk:0.1 + {tmp_path / 'a+b.py'}:Half")
    kept = parse("topk:0.1+fp16")
    x = gauss(1000)
    assert torch.equal(codec.decode(codec.encode(x)), kept.decode(kept.encode(x)))


def test_packets_name_the_class_and_the_content_of_its_file(tmp_path: Path) -> None:
    """Sides that run other code refuse each other; where the file lies does not matter."""
    one = codec_of(tmp_path, HALF)
    (tmp_path / "elsewhere").mkdir()
    same = codec_of(tmp_path / "elsewhere", HALF)
    other = codec_of(tmp_path, HALF + "\n# changed\n")
    assert one.spec == same.spec
    assert one.spec.startswith("Half@")
    assert str(tmp_path) not in one.spec
    with pytest.raises(PacketError, match="was agreed"):
        check(one.encode(gauss(9)), other, 9, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_class_never_sees_what_is_not_finite(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    """Here it would hide it; the receiver sees it all the same, and can refuse."""
    codec = codec_of(tmp_path, HALF.replace("x.half()", "x.nan_to_num(1.0, 1.0, 1.0).half()"))
    x = gauss(100).to(dtype)
    x[50] = bad
    assert codec.decode(codec.encode(x)).isnan().all()


def test_the_class_may_change_and_keep_what_it_is_given(tmp_path: Path) -> None:
    source = HALF.replace("return (x.half(),)", "x.mul_(2); return (x,)").replace(
        "return sections[0].view(torch.float16).float()", "return sections[0].view(torch.float32).div_(2)"
    )
    codec = codec_of(tmp_path, source)
    x = gauss(100)
    before = x.clone()
    packet = codec.encode(x)
    for _ in range(2):
        assert torch.equal(codec.decode(packet), before)
    assert torch.equal(x, before)


def test_sections_need_not_be_aligned(tmp_path: Path) -> None:
    codec = codec_of(tmp_path, HALF)
    packet = codec.encode(gauss(10))
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), packet.parts[1]])[1:]
    assert torch.equal(
        codec.decode(Packet(codec.spec, "float32", 10, (packet.parts[0], shifted))), codec.decode(packet)
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def encode", "def encodes", "has no encode(x)"),
        ("def decode", "decode = 3\n    def d", "has no decode(sections, numel)"),
        ("class Half", "class Hallf", "did you mean 'Hallf'"),
        ("class Half", "Half = 3\nclass Other", "is not a class"),
        ("class Half:", "class Half", "is not Python: expected ':' (line 4)"),
        ("import torch", "import torch, nowhere", "No module named 'nowhere'"),
        ("import torch", "import torch; raise SystemExit", "cannot be run: SystemExit"),
        ("feedback = False", "def __init__(self, share): pass", "made without arguments"),
        ("def encode(self, x)", "def encode(self)", "cannot encode 1 values: TypeError"),
        ("return (x.half(),)", "return x.half()", "a tuple of tensors"),
        ("return (x.half(),)", "return [x.half()]", "a tuple of tensors"),
        ("return (x.half(),)", "return (x.half().numpy(),)", "a tuple of tensors"),
        ("return (x.half(),)", "return (x.half(),) * len(x)", "wrote 3 sections"),
        ("return (x.half(),)", "return (x.repeat(300),)", "its nbytes_max is"),
        ("feedback = False", "def nbytes_max(self, numel): return 2 * numel - 1", "its nbytes_max is 1"),
        ("feedback = False", "def nbytes_max(self, numel): return '8'", "a whole number"),
        ("feedback = False", "def nbytes_max(self): return 8", "nbytes_max(1) failed: TypeError"),
        ("def decode(self, sections, numel)", "def decode(self, sections)", "cannot decode 1 values: TypeError"),
        (".float()", "", "gave float16 [1]"),
        (".float()", ".float()[1:]", "gave float32 [0] of 1 values"),
        (".float()", ".float().view(-1, 1)", "gave float32 [1, 1]"),
        (".float()", ".float().tolist()", "gave a list"),
        (".float()", ".float() / 0", "not finite"),
    ],
)
def test_a_wrong_interface_is_told_in_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in HALF
    with pytest.raises(UsageError) as caught:
        codec_of(tmp_path, HALF.replace(old, new, 1))
    assert words in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_file_that_is_not_there_or_names_no_class(tmp_path: Path) -> None:
    for spec, words in [
        ("nowhere.py:C", "no file nowhere.py"),
        (f"{tmp_path}/own.py", "names no class"),
        ("own.py:", "names no class"),
        ("own.py:not a name", "names no class"),
        ("int8+nowhere.py:C", "cannot stand before|no file"),
    ]:
        with pytest.raises(UsageError, match=words):
            parse(spec)
    (tmp_path / "own.py").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        parse(f"{tmp_path / 'own.py'}:C")


@settings(max_examples=200, deadline=None)
@given(
    flag=st.integers(0, 3),
    scale=st.binary(max_size=6),
    packed=st.binary(max_size=12),
    numel=st.integers(0, 40),
    extra=st.booleans(),
)
def test_any_bytes_are_a_packet_error_or_decode(
    flag: int, scale: bytes, packed: bytes, numel: int, extra: bool
) -> None:
    codec = parse(f"{EXAMPLE}:Ternary")
    sections = [torch.tensor(list(part), dtype=torch.uint8) for part in (bytes([flag]), scale, packed)]
    packet = Packet(codec.spec, "float32", numel, tuple(sections * 2 if extra else sections))
    try:
        check(packet, codec, numel, torch.float32)
        assert codec.decode(packet).shape == (numel,)
    except PacketError:
        return
    assert len(scale) + len(packed) <= 4 + math.ceil(numel / 4)


def test_more_bytes_than_the_class_allows_are_refused(tmp_path: Path) -> None:
    source = HALF.replace("feedback = False", "def nbytes_max(self, numel): return 2 * numel")
    codec = codec_of(tmp_path, source)
    packet = codec.encode(gauss(10))
    longer = Packet(codec.spec, "float32", 10, (packet.parts[0], torch.zeros(200, dtype=torch.uint8)))
    with pytest.raises(PacketError, match="200 bytes"):
        check(longer, codec, 10, torch.float32)


def test_the_example_is_within_thirty_lines_and_half_of_the_energy_arrives() -> None:
    lines = EXAMPLE.read_text().partition("class Ternary")[2].splitlines()
    assert len(lines) <= 30
    codec = parse(f"{EXAMPLE}:Ternary")
    x = gauss(10_000)
    assert (codec.decode(codec.encode(x)) - x).norm() < 0.5 * x.norm()
    assert x.numel() * 4 / codec.encode(x).nbytes > 15
    feedback = Feedback(codec, 10_000, torch.float32)
    mean = sum((codec.decode(feedback.encode(x)) for _ in range(50)), torch.zeros(10_000)) / 50
    assert (mean - x).norm() < 0.1 * x.norm()
