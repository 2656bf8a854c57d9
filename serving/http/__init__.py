"""`gram serve`: a model behind HTTP, with dynamic batching, limits and metrics. Needs the extra `serve`."""
