"""Full ranking, candidates, metrics, re-ranking with collaborative scores, and tuning of baselines."""
