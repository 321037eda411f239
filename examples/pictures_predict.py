"""The machine with the GPU: validates what `pictures_train.py` has left, and tells pictures apart, a batch at a time."""

import sys

import torch
from pictures_train import build, loss
from safetensors.torch import load_model

import roadtrain as rt


def main(ticket):
    model = build()
    load_model(model, "pictures.safetensors")
    trainer = rt.Trainer(model, loss, torch.optim.SGD(model.parameters(), lr=0.1), batch=32)
    figures = trainer.validate(rt.remote_data(ticket, "held-out"))
    print(f"{figures['accuracy']:.1%} of the held-out pictures are right")
    counts = torch.zeros(3, dtype=torch.int64)
    with open("labels.txt", "w") as file:
        for outputs in trainer.predict(rt.remote_data(ticket, "inputs"), batch=16):
            labels = outputs.argmax(1).cpu()
            counts += labels.bincount(minlength=3)
            file.writelines(f"{label}\n" for label in labels.tolist())
    flat, upright, slanted = counts.tolist()
    print(f"{flat} flat, {upright} upright, {slanted} slanted")


if __name__ == "__main__":
    main(sys.argv[1])
