"""`python -m pyllama_mtp`: the command line."""

import sys

from pyllama_mtp.cli import main

if __name__ == "__main__":
    sys.exit(main())
