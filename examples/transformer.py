"""A transformer on several machines, and a dataset of one's own: it learns to continue Python, byte by byte.

roadtrain run --workers 2 examples/transformer.py
roadtrain run --workers 4 --on TICKET examples/transformer.py       on machines that have joined with --allow-code
"""

import textwrap

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import roadtrain as rt

LENGTH, WIDTH = 48, 64


class Windows(Dataset):
    """Every part of a text of so many bytes, and the same one byte later."""

    def __init__(self, text):
        self.codes = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def __len__(self):
        return len(self.codes) - LENGTH

    def __getitem__(self, index):
        return self.codes[index : index + LENGTH], self.codes[index + 1 : index + LENGTH + 1]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes, self.places = nn.Embedding(256, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) / 10)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, 256)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, codes):
        return self.out(self.layers(self.codes(codes.int()) + self.places, mask=self.mask, is_causal=True))


def loss(model, batch):
    """The mean over all places of how surprising the next byte is, in nats."""
    codes, following = batch
    return cross_entropy(model(codes).flatten(0, 1), following.flatten().long())


with open(textwrap.__file__) as file:
    text = file.read()
torch.manual_seed(0)
model = Transformer()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
trainer = rt.Trainer(model, loss, optimizer, sync="diloco:10", codec="int8", batch=16)
figures = trainer.fit(Windows(text[:-2000]), steps=60, validation=Windows(text[-2000:]))
print(f"held-out loss {figures['loss']:.2f} nats a byte, of {torch.log(torch.tensor(256.0)):.2f} before it has learned")
