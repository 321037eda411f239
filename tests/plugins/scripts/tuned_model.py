"""What the scripts beside this train."""

from typing import Any

from transformers import GPT2Config

QUIET: Any = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}
"""No dropout: one process would draw other numbers than two."""


def config() -> GPT2Config:
    """A tiny GPT-2 of 64 words."""
    return GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, **QUIET)
