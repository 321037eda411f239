"""A process that joins one of the same machine, which starts it and writes to its standard input: `RANK PROCESSES ADDRESS`."""

import sys

from roadtrain.plugins.huggingface.joining import follow

if __name__ == "__main__":
    follow(sys.stdin.buffer, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
