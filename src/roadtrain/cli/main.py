"""The command `roadtrain`: parses, hands over, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from roadtrain.cli.arguments import Command, Compare, Help, Run, Simulate, parse
from roadtrain.cli.fleet_arguments import Coordinator, Feed, Join, Relay, TokenCreate, TokenRevoke
from roadtrain.cli.interruption import BEFORE, stopping_at_once
from roadtrain.cli.machine_arguments import Verify
from roadtrain.cli.model_arguments import Evaluate, Predict
from roadtrain.cli.streams import broken_output, secure
from roadtrain.cli.watch_arguments import Doctor, Leave, Logs, Runs, Status, Stop
from roadtrain.errors import Interrupted, RoadtrainError

CARRY_OUT: dict[type[Command], str] = {
    Run: "roadtrain.cli.run:run",
    Simulate: "roadtrain.cli.simulate:simulate",
    Compare: "roadtrain.cli.compare:compare",
    Evaluate: "roadtrain.cli.evaluate:evaluate",
    Predict: "roadtrain.cli.predict:predict",
    Verify: "roadtrain.cli.verify:verify",
    Coordinator: "roadtrain.cli.fleet:coordinator",
    Join: "roadtrain.cli.fleet:join",
    Status: "roadtrain.cli.watch:status",
    Runs: "roadtrain.cli.watch:runs",
    Logs: "roadtrain.cli.logs:logs",
    Stop: "roadtrain.cli.watch:stop",
    Leave: "roadtrain.cli.watch:leave",
    Doctor: "roadtrain.cli.doctor:doctor",
    Feed: "roadtrain.cli.fleet:feed",
    TokenCreate: "roadtrain.cli.fleet:token_create",
    TokenRevoke: "roadtrain.cli.fleet:token_revoke",
    Relay: "roadtrain.cli.relay:relay",
}
"""The function of each command; its module is imported when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 finished, 1 the run failed, 2 wrong usage, 130 stopped by the person."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with stopping_at_once():
            command = parse(words)
            if isinstance(command, Help):
                print(command.text)
                return 0
            debug = command.debug  # behind a script it is the script's
            module, _, function = CARRY_OUT[type(command)].partition(":")
            carry_out = getattr(importlib.import_module(module), function)
        return carry_out(command)
    except KeyboardInterrupt:
        print(f"error: {BEFORE}", file=sys.stderr)
        return Interrupted.exit_code
    except RoadtrainError as error:
        if debug:
            traceback.print_exc()
        if error.trace:
            print(error.trace.rstrip(), file=sys.stderr)
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code


def console() -> int:
    """`main`, as the process that a shell has started."""
    secure()
    code = main()
    if error := broken_output():
        print(f"error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
