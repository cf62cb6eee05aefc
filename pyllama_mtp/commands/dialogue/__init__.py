"""What `pyllama-mtp chat` is made of.

session is the loop: a line comes from keyboard and is a command of slash or a message, which answer streams to screen.
conversation is what was said and how answers are sampled, saved and loaded by saved.
"""
