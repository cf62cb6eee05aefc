"""The commands of `pyllama-mtp`, one file each; pyllama_mtp.cli puts them together.

model.py has the options that several have: which files, how they are loaded, how they draft and are sampled.
arguments.py makes arguments of the lists of options, parser.py parses. figures.py and terminal.py write. dialogue/ is
what `chat` is made of. The libraries of a command are imported when it runs, so that no other one waits for them.
"""
