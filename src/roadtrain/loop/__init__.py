"""A person's own loop: `rt.attach` puts a session around it, `sync.loader` feeds it, checkpoints keep it.

Invariant: the loop is the person's. What is hooked on is their backward pass or their optimizer's step (agreement.py).
"""
