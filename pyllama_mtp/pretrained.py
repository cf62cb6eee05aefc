"""What Model.from_pretrained adds to files: the response_schema of a tokenizer_config.json."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyllama_mtp.errors import InvalidRequestError, shown
from pyllama_mtp.output_options import ResponseSchema

MAX_BYTES = 64 << 20
KEYS = ("response_template", "response_schema")  # of transformers, the newer first

logger = logging.getLogger("pyllama_mtp")


def read_response_schema(tokenizer_config: Path | None) -> Mapping[str, Any] | None:
    """None if there is none, or none that is understood, which the log tells: the file is not the caller's."""
    if tokenizer_config is None:
        return None
    try:
        with open(tokenizer_config, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        config = json.loads(data) if len(data) <= MAX_BYTES else f"a file of more than {MAX_BYTES} bytes"
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read, so no response_schema is taken from it: %s", tokenizer_config, shown(error))
        return None
    if not isinstance(config, dict):
        logger.warning("%s holds no JSON object, so no response_schema is taken from it", tokenizer_config)
        return None
    for key in KEYS:
        if config.get(key) is not None:
            try:
                return ResponseSchema().check(key, config[key])
            except InvalidRequestError as error:
                logger.warning("the %s of %s is not used: %s", key, tokenizer_config, error)
    return None
