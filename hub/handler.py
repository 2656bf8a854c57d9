"""Custom handler of Hugging Face Inference Endpoints: stands at the root of a model repository as `handler.py`.

It needs the repository's files and transformers. Environment variables, read at the start:

    GRAM_BATCH_SIZE: users of a request that are searched for at once; 16 by default.
    GRAM_ITEM_CACHE_MB: where the repository holds no item encodings, those of the whole catalogue are computed at the
        start and kept in memory if they need at most this many megabytes; 256 by default, 0 for never.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from transformers import pipeline

PARAMETERS = ("top_k", "exclude_seen", "num_beams", "score_mode", "exact")

logger = logging.getLogger(__name__)


class EndpointHandler:
    """Recommends to the users of a request. Threads may share one: a call changes nothing. `path`: the model folder."""

    def __init__(self, path: str):
        start = time.monotonic()
        batch_size, most_megabytes = _number("GRAM_BATCH_SIZE", 16, 1), _number("GRAM_ITEM_CACHE_MB", 256, 0)
        self.pipeline = pipeline(
            "generative-recommendation", model=str(path), trust_remote_code=True, batch_size=batch_size
        )
        if self.pipeline.item_cache is None and self._megabytes() <= most_megabytes:
            self.pipeline.item_cache = self.pipeline.model.encode_items(self.pipeline.tokenizer, progress=False)
        self.pipeline(self.pipeline.tokenizer.item_ids[:1])  # what is made at the first call is made now
        logger.info("ready to recommend after %.1f s", time.monotonic() - start)

    def _megabytes(self) -> float:
        """Memory that the encodings of the whole catalogue need, in float32."""
        num_tokens = sum(map(len, self.pipeline.tokenizer.item_prompts))
        return 4 * self.pipeline.model.config.d_model * num_tokens / 1e6

    def __call__(self, data: dict[str, Any]) -> list:
        """Answer a request.

        Args:
            data: `inputs`: the item ids of one user, oldest first, or a list of such histories; `parameters`, if
                there are any: `top_k` (10), `exclude_seen` (True), `num_beams` (50), `score_mode` and `exact`.

        Returns:
            What the pipeline gives for these.

        Raises:
            ValueError: something is wrong with the request; Inference Endpoints answer with the message.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('a request is of the form {"inputs": [[ITEM, ...], ...], "parameters": {...}}')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(inputs, list):
            raise ValueError(f"`inputs` must be a list of item ids, or of such lists, got {type(inputs).__name__}")
        if not isinstance(parameters, dict):
            raise ValueError(f"`parameters` must be an object, got {type(parameters).__name__}")
        for name in parameters:
            if name not in PARAMETERS:
                raise ValueError(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
        return self.pipeline(inputs, **parameters)


def _number(name: str, default: int, least: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")
    return int(value)
