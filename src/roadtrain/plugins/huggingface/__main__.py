"""`python -m roadtrain.plugins.huggingface verify`."""

import sys

from roadtrain.errors import RoadtrainError


def command(words: list[str]) -> int:
    """Returns the exit code: 0 where two processes train as one does."""
    if words != ["verify"]:
        print("error: the only word is verify", file=sys.stderr)
        return 2
    try:
        from roadtrain.plugins.huggingface.verify import verify
    except ImportError as error:
        print(f"error: {error}\nhint: pip install roadtrain[huggingface]", file=sys.stderr)
        return 1
    try:
        verify()
    except RoadtrainError as error:
        print(f"{error.trace}\nerror: {error.line()}".strip(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
