"""A training function as `ray.train` wants one, and the five lines that differ.

roadtrain run --workers 2 --on ray examples/ray_train.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import roadtrain as rt  # before: import ray.train, ray.train.torch


def train_loop(config):
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    dataset = TensorDataset(pixels.float() / 16, labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    # before: model = ray.train.torch.prepare_model(model)
    sync = rt.attach(model, optimizer, sync="diloco:10", codec="int8")
    # before: for ... in ray.train.torch.prepare_data_loader(DataLoader(dataset, batch_size=32)), once for each epoch
    for images, targets in sync.loader(dataset, batch_size=32, epochs=5):
        loss = cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sync.log(loss=loss.detach())  # before: ray.train.report({"loss": loss.item()})
    sync.finish()
    print(f"worker {sync.rank} of {sync.world_size} has trained")


# before: TorchTrainer(train_loop, train_loop_config={"lr": 0.003}, scaling_config=ScalingConfig(num_workers=2)).fit()
train_loop({"lr": 0.003})
