"""Batches from other processes, sans-IO: a consumer that asks, a producer that answers, and how a batch becomes bytes."""
