"""The examples of docs/chat.md run, in their order."""

import re

from pyllama_mtp import Model
from support.cmake import PROJECT
from support.real_chat import RealChat

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_examples_run(real_chat: RealChat):
    page = (PROJECT / "docs" / "chat.md").read_text()
    examples = EXAMPLE.findall(page)
    assert len(examples) >= 7
    with Model(real_chat.target, mtp_head=real_chat.head, n_ctx=1024, n_threads=1) as model:
        names: dict[str, object] = {"model": model}
        for example in examples:
            line = page[: page.index(example)].count("\n")
            exec(compile("\n" * line + example, "docs/chat.md", "exec"), names)
