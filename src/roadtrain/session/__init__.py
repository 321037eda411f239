"""Agreement apart from the loop: gradient hooks, buffers, device copies and the communication thread.

Public: `build`, `Built`, `Terms`, `Address`, `Begun` (session/joining.py) lead to a `Session`; `Control` is what it wants from
whoever runs the fleet; `WorkerStats` is what is counted.

Invariant: knows neither a model's loss nor where data comes from, and nothing of the coordinator but `Control`.
"""
