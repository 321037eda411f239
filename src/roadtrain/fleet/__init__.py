"""The control plane: who takes part, how they are doing, and the word to begin, stop and finish. Never in the training loop.

Public: `Coordinator` (decisions, sans-IO), `serve` (its FastAPI app on a thread), `work` (a worker's life).

Invariant: nothing here carries tensors; when the coordinator is gone, training goes on with the last view.
"""
