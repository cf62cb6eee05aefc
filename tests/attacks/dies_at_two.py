"""A worker of mutations.py that aborts in case 2: see test_mutations.py."""

import os
import sys

begin, end = (int(argument) for argument in sys.argv[sys.argv.index("--worker") + 1 :])
for number in range(begin, end):
    print(f"begin {number}", flush=True)
    if number == 2:
        os.abort()
    print("ends loads nothing", flush=True)
