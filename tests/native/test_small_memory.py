"""Loads and calls that run out of address space on the thread that they are made on raise, and end no process."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from pyllama_mtp import Model, PyllamaMtpError
def load(): return Model(sys.argv[1], mtp_head=sys.argv[2], n_ctx=512, n_threads=1)
def limit(n_bytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))
if sys.argv[3] == "load":
    limit(int(sys.argv[4]) << 20)
    try:
        load()
    except PyllamaMtpError as error:
        print(type(error).__name__)
else:
    model = load()
    limit(int(sys.argv[4]) << 20)
    try:
        model.logits([5] * 500)
    except PyllamaMtpError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("call, mib", [("load", 12), ("load", 16), ("load", 24), ("logits", 1), ("logits", 2)])
def test_the_first_exception_of_a_thread_may_be_that_memory_ran_out(demo, call: str, mib: int):
    """The C++ runtime found no room for the thread's record of exceptions, and the C library ended the process."""
    command = [sys.executable, "-P", "-c", CODE, str(demo.target), str(demo.head), call, str(mib)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # numpy may be the one that finds no room for the logits
    expected = {"load": ["ModelLoadError"], "logits": ["OutOfMemoryError", "InvalidRequestError"]}
    assert done.stdout.strip() in expected[call]
