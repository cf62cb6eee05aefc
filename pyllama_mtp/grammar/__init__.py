"""Constrained output: from what a caller asks for to the grammar of one completion. docs/grammar.md.

options.py is what may be asked for, schemas.py what JSON schemas may hold, calls.py the syntax of calls, build.py the
text of a grammar, constraints.py what restricts a completion of a model, masks.py callables.
"""
