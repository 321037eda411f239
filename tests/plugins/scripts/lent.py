"""`lent.py OUT`: a tiny GPT-2 on machines of a fleet. Each process tells in OUT which rows it has seen, and what it ends with."""

# ruff: noqa: E402 - the plugin's lines stand first

import json
import sys
from pathlib import Path
from typing import Any

from roadtrain.plugins.huggingface import enable_multi_gpu, get_multi_gpu_status

enable_multi_gpu(batch_size_per_gpu=2, sync="diloco:4", codec="int8")

import torch
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments
from tuned_model import config

out = Path(sys.argv[1])
seen: list[int] = []


def collate(rows):
    seen.extend(row["number"] for row in rows)
    tokens = torch.stack([row["tokens"] for row in rows])
    return {"input_ids": tokens, "labels": tokens}


tokens = torch.randint(3, 64, (32, 16), generator=torch.Generator().manual_seed(1))
status = get_multi_gpu_status()
torch.manual_seed(status["rank"])  # other weights than the others'
trainer = Trainer(
    model=GPT2LMHeadModel(config()),
    args=TrainingArguments(
        output_dir=str(out / f"checkpoints{status['rank']}"),
        num_train_epochs=1,
        gradient_accumulation_steps=2,
        learning_rate=0.3,
        optim="sgd",
        save_steps=4,
        logging_steps=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=[{"number": number, "tokens": row} for number, row in enumerate(tokens)],  # pyright: ignore[reportArgumentType]
    data_collator=collate,
)
trainer.train()
model: Any = trainer.model
model.save_pretrained(out / f"saved{status['rank']}")
weights = {name: value.flatten().tolist() for name, value in model.state_dict().items()}
told = {"seen": seen, "weights": weights, "world": status["world_size"], "steps": trainer.state.global_step}
(out / f"{status['rank']}.json").write_text(json.dumps(told))
