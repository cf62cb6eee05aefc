"""Converts Gemma 4 assistant checkpoints to GGUF: convert_assistant(). The command is `convert-assistant`; see
docs/converter.md.
"""

from pyllama_mtp.convert.assistant import OUTTYPES, convert_assistant

__all__ = ["OUTTYPES", "convert_assistant"]
