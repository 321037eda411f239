"""Commands that use the model of a run, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadtrain.cli.parser import Parser
from roadtrain.cli.plain_form import PlainForm, add_json, count

FORMATS = ("npy", "jsonl", "safetensors", "parquet")
DEVICE = "auto, cpu, cuda, cuda:1, mps or xpu (default: the run's)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """`roadtrain evaluate`. `device`: None for the run's."""

    folder: Path
    device: str | None
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """`roadtrain predict`. `batch`, `device`: None for the run's. `shard_size`: rows of a part; None for about 64 MiB."""

    folder: Path
    input: Path
    out: Path
    workers: int
    batch: int | None
    shard_size: int | None
    format: str
    device: str | None
    json: bool
    debug: bool


ModelCommand = Evaluate | Predict


def _add_evaluate(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run of a recipe or a job")
    parser.add_argument("--device", metavar="NAME", help=DEVICE)
    add_json(parser, "print the figures as one JSON object")


def _add_predict(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run of a recipe or a job")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npy: its rows; else what the job's inputs(path) reads",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the outputs")
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--batch", type=count, metavar="N", help="rows that the model is given at once (default: the run's)"
    )
    parser.add_argument("--shard-size", type=count, metavar="ROWS", help="rows of one file (default: about 64 MiB)")
    parser.add_argument("--format", choices=FORMATS, default="npy", help="of these files (default: npy)")
    parser.add_argument("--device", metavar="NAME", help=DEVICE)
    add_json(parser, "print rows, parts and seconds as one JSON object")


MODEL: dict[str, PlainForm[ModelCommand]] = {
    "evaluate": PlainForm(
        help="look at a trained model's held-out loss again",
        description="Compute the figures on held-out samples of the model that a run has trained: its job makes the model, "
        "and its folder has the weights.",
        usage="roadtrain evaluate DIR [--device NAME] [--json]",
        add=_add_evaluate,
        make=lambda given: Evaluate(folder=given.folder, device=given.device, json=given.json, debug=given.debug),
    ),
    "predict": PlainForm(
        help="compute a trained model's outputs for a file",
        description="Compute the outputs of the model that a run has trained for all rows of a file, in order, into files of a "
        "folder. The same command again goes on where it was stopped.",
        usage="roadtrain predict DIR --input FILE --out DIR [--workers N] [flags]",
        add=_add_predict,
        make=lambda given: Predict(
            folder=given.folder,
            input=given.input,
            out=given.out,
            workers=given.workers,
            batch=given.batch,
            shard_size=given.shard_size,
            format=given.format,
            device=given.device,
            json=given.json,
            debug=given.debug,
        ),
    ),
}
