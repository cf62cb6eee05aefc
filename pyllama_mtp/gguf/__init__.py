"""GGUF files, the ground that engine and converter share: the format, what a file must hold, Gemma 4's tables.

What reads and writes the format is named here; the rest is in the modules of its subjects.
"""

from pyllama_mtp.gguf.format import TENSOR_TYPES, Entry, GGUFFile, StringArray, TensorInfo, Writer, read_header

__all__ = ["TENSOR_TYPES", "Entry", "GGUFFile", "StringArray", "TensorInfo", "Writer", "read_header"]
