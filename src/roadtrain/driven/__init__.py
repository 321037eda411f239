"""A model, a loss and an optimizer of a notebook or a script as plain data, and the loop that trains them elsewhere.

The driver draws a blueprint (`drawing.py`) and ships it with the code that it names; a worker builds from it (`building.py`) and
trains (`worker.py`) on the batches that the driver sends.
"""
