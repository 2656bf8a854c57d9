"""Publishing a trained model: its card, its files, its demo."""
