"""A run from start to end on one worker: local steps, agreement between replicas, metrics, checkpoints.

Public: `Trainer`, `Task`, `Control`, `SyncThread`, `WorkerStats`.

Invariant: knows nothing of the coordinator; views come in and metrics go out through the `Control` protocol.
"""
