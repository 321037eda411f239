"""Runs whose workers are placed by Ray: one actor for each worker and feeder, in one placement group.

Public: `Asked`, `is_ray`, `connected`, `run_on_ray`.

Invariant: Ray starts, places and kills processes, and keeps their logs. What workers say to each other and to the coordinator,
which is in the driver, goes the ways that it goes everywhere.
"""
