"""Starts a coordinator and workers, on this machine or under somebody else's launcher, and sees a run through.

Public: `prepare`, `run_local`, `run_spmd`, `under_launcher`.

Invariant: there is one path through the code, whoever started the workers.
"""
