"""`gram serve`: a model behind HTTP, with dynamic batching, limits and metrics. Needs the extra `serve`."""

from .settings import ServeSettings

__all__ = ["ServeSettings"]
