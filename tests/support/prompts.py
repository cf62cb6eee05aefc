"""Beginnings of Python source, which the embedded pair continues."""

PROMPTS = [
    "def main():\n    import sys\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\n\ndef walk(path):\n",
    'def parse(text):\n    """Parse',
    "for i in range(10):\n    print(",
    "try:\n    import json\nexcept ImportError:\n",
]
