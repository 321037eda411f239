from __future__ import annotations

import pytest

from roadtrain.codec import CODECS, Codec, chain, parse
from roadtrain.errors import UsageError

ARGUMENTS = {"topk": ":0.5", "dgc": ":0.5", "powersgd": ":2"}


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", "none"),
        (" int8 ", "int8"),
        ("topk:0.010", "topk:0.01"),
        ("topk:1e-2", "topk:0.01"),
        ("topk:1", "topk:1.0"),
        ("topk:0.01 + int8", "topk:0.01+int8"),
        ("topk:.05+onebit", "topk:0.05+onebit"),
        ("topk:0.00001", "topk:1e-05"),
        ("dgc:.01+int8", "dgc:0.01+int8"),
        ("powersgd:4", "powersgd:4"),
        ("powersgd:2:768 +fp16", "powersgd:2:768+fp16"),
    ],
)
def test_a_spec_has_one_canonical_form(text: str, spec: str) -> None:
    assert parse(text).spec == spec
    assert parse(spec) == parse(text)
    assert hash(parse(spec)) == hash(parse(text))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("int9", "did you mean 'int8'"),
        ("", "unknown codec ''"),
        ("zstd", "known: bf16"),
        ("int8+", "unknown codec ''"),
        ("int8:4", "takes no argument"),
        ("topk", "(0, 1]"),
        ("topk:", "(0, 1]"),
        ("topk:0", "(0, 1]"),
        ("topk:-0.1", "(0, 1]"),
        ("topk:1.5", "(0, 1]"),
        ("topk:nan", "(0, 1]"),
        ("topk:many", "not 'many'"),
        ("topk:0.1+none", "'none' cannot be in a chain"),
        ("none+int8", "'none' cannot stand before 'int8'"),
        ("int8+topk:0.1", "only topk, dgc and powersgd"),
        ("dgc:0", "dgc:0.01"),
        ("dgc:0.1+topk:0.1", "+int8"),
        ("topk:0.1+dgc:0.1", "momentum"),
        ("powersgd", "powersgd:4"),
        ("powersgd:0", "powersgd:4"),
        ("powersgd:-1", "powersgd:4"),
        ("powersgd:4:0", "powersgd:4:768"),
        ("powersgd:4:8:2", "powersgd:4:768"),
        ("powersgd:4+none", "'none' cannot be in a chain"),
        ("topk:0.1+int8+bf16", "'int8' cannot stand before 'bf16'"),
    ],
)
def test_a_wrong_spec_is_told_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(spec)
    assert words in caught.value.line()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("spec", "biased"),
    [
        ("none", False),
        ("fp16", False),
        ("bf16", False),
        ("int8", True),
        ("int4", True),
        ("onebit", True),
        ("topk:0.5", True),
        ("topk:1.0", False),
        ("topk:1.0+bf16", False),
        ("topk:1.0+int8", True),
        ("dgc:1.0", True),
        ("powersgd:1", True),
    ],
)
def test_biased_says_who_needs_error_feedback(spec: str, biased: bool) -> None:
    assert parse(spec).biased is biased


def test_every_name_parses_and_chains_behind_topk() -> None:
    for name in CODECS:
        codec = parse(name + ARGUMENTS.get(name, ""))
        assert isinstance(codec, Codec)
        if name not in ("none", "dgc"):
            assert chain(parse("topk:0.5"), codec) == parse(f"topk:0.5+{codec.spec}")
