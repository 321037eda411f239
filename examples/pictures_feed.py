"""The machine with processors: reads, decodes and augments pictures for those that train, validate and predict.

roadtrain coordinator
python examples/pictures_feed.py TICKET
python examples/pictures_train.py TICKET        on the machine with the GPU
python examples/pictures_predict.py TICKET      there, afterwards
"""

import sys
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch.utils.data import Dataset

import roadtrain as rt

FOLDER, SIZE, COUNT = Path("pictures"), 32, 600


def draw(number):
    """A bright bar on noise: flat, upright or slanted, which is its label."""
    label, draws = number % 3, numpy.random.default_rng(number)
    picture = draws.integers(0, 90, (SIZE, SIZE, 3))
    for step in range(20):
        row, column = [(16, 6 + step), (6 + step, 16), (6 + step, 6 + step)][label]
        row, column = row + draws.integers(-1, 2), column + draws.integers(-1, 2)
        picture[row - 1 : row + 2, column] += 150
    return Image.fromarray(picture.clip(0, 255).astype("uint8")), label


def make_pictures():
    """A folder of files, every other one a JPEG."""
    FOLDER.mkdir(exist_ok=True)
    for number in range(COUNT):
        picture, label = draw(number)
        picture.save(FOLDER / f"{number:04}-{label}.{'png' if number % 2 else 'jpg'}")


class Pictures(Dataset):
    """Files as uint8 pictures [3, height, width]; `augment` shifts them, as the sample and the epoch have it."""

    def __init__(self, files, augment=False, labels=True):
        self.files, self.augment, self.labels = files, augment, labels

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        file = self.files[index]
        picture = torch.from_numpy(numpy.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).contiguous()
        if self.augment:
            shift = torch.randint(-2, 3, (2,)).tolist()
            picture = picture.roll(shift, (1, 2))
        return (picture, int(file.stem[-1])) if self.labels else picture


if __name__ == "__main__":
    make_pictures()
    files = sorted(FOLDER.iterdir())
    train, held_out = Pictures(files[120:], augment=True), Pictures(files[:120])
    rt.feed({"train": train, "held-out": held_out, "inputs": Pictures(files[:120], labels=False)}, on=sys.argv[1])
