"""A tiny GPT-2 with transformers' Trainer, on the machines of a fleet, which agree every ten steps: roadtrain's lines say so."""

# ruff: noqa: E402
from roadtrain.plugins.huggingface import enable_multi_gpu

enable_multi_gpu(batch_size_per_gpu=4, sync="diloco:10")

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

tokens = torch.arange(16).repeat(64, 1) + torch.randint(30, (64, 1))  # they count
trainer = Trainer(
    model=GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)),
    args=TrainingArguments("out", max_steps=20, learning_rate=0.01, save_steps=20, report_to="none", disable_tqdm=True),
    train_dataset=[{"input_ids": row, "labels": row} for row in tokens],  # pyright: ignore[reportArgumentType]
)
trainer.train()
