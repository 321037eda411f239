"""`python -m roadtrain` is the command `roadtrain`."""

import sys

from roadtrain.cli.main import console

if __name__ == "__main__":
    sys.exit(console())
