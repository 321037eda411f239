"""The built-in jobs: real data without a download.

Purpose: something to train in the first minute, in the first lesson and in the tests.

A recipe is a job on the interface that everybody's have (`plan.declaration`): its module has `make(plan, *, ...)`, which
returns a task, and the settings that it prefers in `DEFAULTS`. `plan.RECIPES` has their names. What needs torch is in a module
of its own, `..._task`: a task can `build` the model, `batch` some samples by their numbers, tell the `loss` of a batch,
`validate` on held-out data, and `sample` text where there is text to show.

Invariants: importing a recipe does not import torch; a batch is a pure function of the plan and the sample numbers, so every
worker can make any of it.
"""
