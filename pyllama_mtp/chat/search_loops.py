"""Loops of templates that search: with a flag that, once it is set, leaves nothing to do for the rest of them.

jinja2 has no way out of a loop, so templates that look for one message among all do it in quadratic time. Gemma 4's
does so for every message. A loop over a range may end where its flag is set: what it would go on with has no effect.
"""

from jinja2 import nodes


def shortened(template: nodes.Template) -> nodes.Template:
    """The template, which writes the same, with an end in each such loop."""
    for loop in template.find_all(nodes.For):
        body = [node for node in loop.body if not _writes_nothing(node)]
        if len(body) != 1 or not isinstance(body[0], nodes.If) or not _counts(loop):
            continue
        branch = body[0]
        end = nodes.Break(lineno=branch.lineno)
        if isinstance(branch.test, nodes.Not) and _is_flag(branch.test.node, loop):
            if not branch.elif_ and all(map(_writes_nothing, branch.else_)):
                branch.else_ = [end]
        elif _is_flag(branch.test, loop) and all(map(_writes_nothing, branch.body)):
            branch.body = [end]
    return template


def _writes_nothing(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Output) and all(
        isinstance(text, nodes.TemplateData) and not text.data for text in node.nodes
    )


def _counts(loop: nodes.For) -> bool:
    """Over a range, with nothing that happens between two turns, or at the end."""
    is_range = isinstance(loop.iter, nodes.Call) and getattr(loop.iter.node, "name", "") == "range"
    return is_range and not (loop.test or loop.else_ or loop.recursive)


def _is_flag(test: nodes.Node, loop: nodes.For) -> bool:
    """An attribute of a variable that is the same in every turn, unless a turn sets it."""
    return (
        isinstance(test, nodes.Getattr)
        and isinstance(test.node, nodes.Name)
        and isinstance(loop.target, nodes.Name)
        and test.node.name not in (loop.target.name, "loop")
    )
