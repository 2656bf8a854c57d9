"""Recommending with a trained model: to one user, to many, over HTTP."""
