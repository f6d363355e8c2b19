"""The command line under its promised name: the same program as `pgproof`."""

import sys

from pgproof.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
