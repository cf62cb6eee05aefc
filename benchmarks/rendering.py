"""What rendering a conversation takes: the time of a call, conversations of several lengths, with and without a pause.

    python benchmarks/rendering.py TEMPLATE.jinja [--messages 1 19 79 --pause 0.01]

A process for the next rendering is made ready while nothing else happens, so a rendering right behind another one waits
for it. TEMPLATE: such as models/templates/google-gemma-4-31B-it.jinja of llama.cpp's source.
"""

import argparse
import statistics
import time
from pathlib import Path

from pyllama_mtp import chat

RUNS = 150


def conversation(n: int) -> list[chat.Message]:
    question = "Question {0}: what is the capital of country number {0}, and why?"
    answer = "The capital {0} is a large town with many people in it. "
    texts = [answer.format(i) * 4 if i % 2 else question.format(i) for i in range(n)]
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("template", type=Path)
    parser.add_argument("--messages", type=int, nargs="+", default=[1, 19, 79])
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two renderings")
    args = parser.parse_args()
    template = args.template.read_text()
    for n in args.messages:
        messages, times = conversation(n), []
        for _ in range(RUNS):
            begin = time.perf_counter()
            chat.render(template, messages, bos_token="<bos>", eos_token="<eos>")
            times.append(1e3 * (time.perf_counter() - begin))
            time.sleep(args.pause)
        print(f"{n} messages: {statistics.median(times[10:]):.2f} ms (median), {min(times):.2f} (least)")


if __name__ == "__main__":
    main()
