"""What a run writes of its state, and begins with: torch's distributed checkpoints, one folder a step, and the exported model.

Public: `Checkpoints`, `Shared` (checkpoint.py), `InitialState` (initial_state.py), `export` (export.py).
"""
