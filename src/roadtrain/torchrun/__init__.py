"""A script that was written for torchrun, or for one process, and not for roadtrain: where it is hooked on.

Invariant: what is not rerouted is torch's own, untouched. What cannot be is said in one line.
"""
