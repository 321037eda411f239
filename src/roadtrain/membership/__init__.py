"""Who takes part in a run: coming, going, being lost; sans-IO, on both ends of the control channel.

| at the coordinator | at a worker |
|---|---|
| `ControlServer`: all channels | `ControlClient`: what it knows of its run |
| `Coordinator`: the decisions, on a `Registry` of `WorkerRecord`s | |

`view.py` makes one view from another and checks it; `messages.py` and `frames.py` are what is said. Drivers: `fleet/` on sockets,
`simulate/` on the virtual clock.

Invariant: knows no sockets, threads, clocks or random sources; time is handed in.
"""
