"""Custom handler of Hugging Face Inference Endpoints, at the root of a model repository; needs transformers alone."""

from __future__ import annotations

import logging
import time
from typing import Any

from transformers import pipeline

MOST_MEGABYTES = 256  # of item encodings that are computed at the start, where the repository holds none
PARAMETERS = (
    *("top_k", "exclude_seen", "exclude", "only", "where", "num_beams", "score_mode", "exact"),
    *("cold_share", "cold_below"),
)

logger = logging.getLogger(__name__)


class EndpointHandler:
    """Recommends to the users of a request. Threads may share one: a call changes nothing. `path`: the model folder."""

    def __init__(self, path: str):
        start = time.monotonic()
        self.pipeline = pipeline("generative-recommendation", model=str(path), trust_remote_code=True)
        if self.pipeline.item_cache is None and self._megabytes() <= MOST_MEGABYTES:
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
                there are any, are the pipeline's: `top_k` (10), `exclude_seen` (True), `exclude`, `only`, `where`,
                `num_beams` (50), `score_mode`, `exact`, `cold_share` (0), `cold_below` (1).

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
