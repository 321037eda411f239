"""A Colab runtime, or another notebook on a machine of its own, lends itself to a fleet from one cell.

    !pip install -q roadtrain
    from roadtrain.plugins import colab
    colab.join()

It dials out alone: no port is opened, no tunnel made. See docs/colab.md.
"""

from roadtrain.plugins.colab.joining import join

__all__ = ["join"]
