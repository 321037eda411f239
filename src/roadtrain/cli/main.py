"""The command `roadtrain`: parses, hands over, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from roadtrain.cli.arguments import Compare, Help, Simulate, parse
from roadtrain.errors import Interrupted, RoadtrainError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 finished, 1 the run failed, 2 wrong usage, 130 interrupted with a checkpoint saved."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        command = parse(words)
        if isinstance(command, Help):
            print(command.text)
            return 0
        if isinstance(command, Simulate):
            from roadtrain.cli.simulate import simulate

            return simulate(command)
        if isinstance(command, Compare):
            from roadtrain.cli.compare import compare

            return compare(command)
        from roadtrain.cli.run import run

        return run(command)
    except KeyboardInterrupt:
        print("error: stopped before the run began", file=sys.stderr)
        return Interrupted.exit_code
    except RoadtrainError as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
