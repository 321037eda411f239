"""`python -m roadtrain` is the command `roadtrain`."""

import sys

from roadtrain.cli.interruption import stopping_at_once
from roadtrain.errors import UsageError
from roadtrain.system import refuse_windows


def command() -> int:
    """The process that a shell has started; returns its exit code. Ctrl-C may come while it imports the rest."""
    try:
        refuse_windows()
    except UsageError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    with stopping_at_once():
        from roadtrain.cli.main import console
    return console()


if __name__ == "__main__":
    sys.exit(command())
