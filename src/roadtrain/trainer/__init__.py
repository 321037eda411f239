"""A run from start to end on one worker: the loop, how steps are computed, checkpoints while they are.

Public: `Trainer` (trainer.py), a loop for a model of one's own; `BuiltJob` and `RunningJob` (job.py) for
recipes and jobs; `Task`.

Invariant: knows nothing of the coordinator; views come in and metrics go out through `session.control.Control`.
"""
