"""`adapter.py plain|enable|SYNC OUT`: an adapter (LoRA) of a tiny GPT-2, with a global batch of 8 in one process and in two."""

# ruff: noqa: E402 - the plugin's lines stand first

import json
import os
import sys
from pathlib import Path
from typing import Any

how, out = sys.argv[1], Path(sys.argv[2])
if how != "plain":
    from roadtrain.plugins.huggingface import enable_multi_gpu

    enable_multi_gpu(num_gpus=2, batch_size_per_gpu=4, ddp_backend="gloo", sync=None if how == "enable" else how)

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from tuned_model import config


def trainer(steps: int) -> Any:
    set_seed(0)  # pyright: ignore[reportCallIssue]
    lora = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.0, task_type="CAUSAL_LM")
    tokens = torch.randint(3, 64, (64, 16), generator=torch.Generator().manual_seed(1))
    args = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows: Any = [{"input_ids": row, "labels": row} for row in tokens]
    return Trainer(model=get_peft_model(GPT2LMHeadModel(config()), lora), args=args, train_dataset=rows)


if ":" in how:
    ended = trainer(8)
    ended.train()
else:
    trainer(4).train()
    ended = trainer(8)
    ended.train(resume_from_checkpoint=True)
ended.model.save_pretrained(out / "saved")
weights = {name: value.flatten().tolist() for name, value in ended.model.state_dict().items() if "lora" in name}
told = {
    "weights": weights,
    "losses": [entry["loss"] for entry in ended.state.log_history if "loss" in entry],
    "base": sum(parameter.numel() for parameter in ended.model.parameters() if not parameter.requires_grad),
    "adapter": sum(parameter.numel() for parameter in ended.model.parameters() if parameter.requires_grad),
}
(out / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))
