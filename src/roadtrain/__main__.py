"""`python -m roadtrain` is the command `roadtrain`."""

import sys

from roadtrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
