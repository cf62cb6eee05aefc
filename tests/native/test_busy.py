"""A busy or small machine: threads without a CPU of their own, other work, idle models, threads that cannot be started.

How fast that is, `benchmarks/busy.py` measures; here only what differed by orders of magnitude.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"

PRELUDE = """
import os, resource, sys, time
from pyllama_mtp import Model, ModelLoadError

def load(n_threads, **options):
    return Model(sys.argv[1], mtp_head=sys.argv[2], n_ctx=512, n_threads=n_threads, **options)

def complete(model, n=48):
    options = {"max_tokens": n, "temperature": 0, "ignore_eos": True, "num_speculative_tokens": 3}
    return model.generate("def main():\\n", **options).text()
"""


def run(demo, code: str, timeout: float = 120) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-P", "-c", PRELUDE + code, demo.target, demo.head]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_more_threads_than_cpus(demo):
    """With one thread more than CPUs every operation waited for a whole turn of the scheduler: a thousand times slower.

    The text is the same: over a turbo cache it does not depend on the number of threads.
    """
    output = run(
        demo,
        """
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
for n_threads in (1, 2, 4):
    with load(n_threads, cache_type_k="turbo4", cache_type_v="turbo4") as model:
        complete(model)
        times = []
        for _ in range(3):
            model.generate("x", max_tokens=1).text()    # another prompt, so that nothing is in the cache
            begin = time.perf_counter()
            text = complete(model)
            times.append(time.perf_counter() - begin)
        print(min(times), repr(text))
""",
    )
    lines = [line.split(" ", 1) for line in output.splitlines()]
    one, two, four = (float(seconds) for seconds, _ in lines)
    assert len({text for _, text in lines}) == 1
    assert max(two, four) < 10 * one + 0.2, (one, two, four)


def test_two_models_at_once_with_all_cpus_each(demo):
    """Two models with the default number of threads stopped each other."""
    output = run(
        demo,
        """
import threading
cpus = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, cpus)
with load(1) as model:
    complete(model, 4)
    begin = time.perf_counter()
    complete(model, 200)
    alone = time.perf_counter() - begin    # of one thread
models = [load(len(cpus)) for _ in range(2)]
for model in models:
    complete(model, 4)
threads = [threading.Thread(target=complete, args=(model, 200)) for model in models]
begin = time.perf_counter()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(alone, time.perf_counter() - begin)
""",
    )
    alone, together = map(float, output.split())
    assert together < 10 * alone + 1, (alone, together)


def test_a_model_that_does_nothing_takes_no_cpu(demo):
    """The threads of a pool went on looking for work for a third of a second."""
    output = run(
        demo,
        """
with load(2) as model:
    complete(model)
    begin = time.process_time()
    time.sleep(0.5)
    print(time.process_time() - begin)
""",
    )
    assert float(output) < 0.1


def test_threads_that_cannot_be_started(demo):
    """Loading ended the process (an assertion of ggml_threadpool_new)."""
    output = run(
        demo,
        """
load(1).close()
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (1500 << 20), resource.RLIM_INFINITY))
try:
    load(512)
except ModelLoadError as error:
    print(error)
with load(1) as model:
    print(len(complete(model, 8)) > 0)
""",
    )
    message, works = output.splitlines()
    assert "of 512 threads could be started: lower n_threads" in message and works == "True"
    assert "gave no reason" not in message


@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-fsanitize=thread"]], ids=["plain", "thread-sanitiser"])
@pytest.mark.parametrize("n_cpus, n_threads", [(1, 2), (1, 5), (2, 2), (2, 4)])
def test_nobody_sleeps_for_ever(tmp_path, flags, n_cpus, n_threads):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    sources = [HERE / "wait_check.c", CSRC / "kernels" / "cpu" / "wait.c"]
    program = tmp_path / "check"
    build = [compiler, "-std=gnu11", *flags, "-I", CSRC, *sources, "-o", program, "-pthread"]
    if subprocess.run(build, capture_output=True).returncode != 0 and "-fsanitize=thread" in flags:
        pytest.skip("no thread sanitiser")
    cpus = sorted(os.sched_getaffinity(0))[:n_cpus]
    result = subprocess.run(
        [program, str(n_threads), "5000"],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    assert result.returncode == 0 and result.stdout == "5000\n", result.stdout + result.stderr
