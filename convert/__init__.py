"""Converts Gemma 4 assistant checkpoints to GGUF: convert_assistant(); and GGUF files in an older layout to the present
one: upgrade_assistant(). The command for both is `convert-assistant`; see docs/converter.md.
"""

from pyllama_mtp.convert.assistant import OUTTYPES, convert_assistant
from pyllama_mtp.convert.upgrade import upgrade_assistant

__all__ = ["OUTTYPES", "convert_assistant", "upgrade_assistant"]
