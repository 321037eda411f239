"""`tuned.py plain|enable|SYNC OUT`: a tiny GPT-2 as people train one, with a global batch of 8 in one process and in two.

Accumulation, evaluation, checkpoints, a resumed part, a saved model.
"""

# ruff: noqa: E402 - the plugin's lines stand first

import json
import os
import sys
from pathlib import Path
from typing import Any

how, out = sys.argv[1], Path(sys.argv[2])
if how != "plain":
    from roadtrain.plugins.huggingface import enable_multi_gpu

    enable_multi_gpu(num_gpus=2, batch_size_per_gpu=2, ddp_backend="gloo", sync=None if how == "enable" else how)

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

QUIET: Any = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}


def rows(count, seed) -> Any:
    """Rows of 6 to 16 tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 64, (count, 16), generator=generator)
    kept = torch.arange(16) < torch.randint(6, 17, (count, 1), generator=generator)
    labels = torch.where(kept, tokens, -100)
    return [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def trainer(steps):
    set_seed(0)  # pyright: ignore[reportCallIssue]
    args = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=steps,
        learning_rate=0.3,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, **QUIET))
    return Trainer(model=model, args=args, train_dataset=rows(64, 1), eval_dataset=rows(16, 2))


if "diloco" in how:
    ended = trainer(10)
    ended.train()
else:
    trainer(4).train()
    ended = trainer(8)
    ended.train(resume_from_checkpoint=True)
model: Any = ended.model
model.save_pretrained(out / "saved")
history = ended.state.log_history
told = {
    "weights": {name: value.flatten().tolist() for name, value in model.state_dict().items()},
    "losses": [entry["loss"] for entry in history if "loss" in entry],
    "evaluated": [entry["eval_loss"] for entry in history if "eval_loss" in entry],
    "world": ended.args.world_size,
}
(out / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))
