"""What a training run needs besides its loop: where it starts, LoRA, checkpoints, history, trackers, plots."""
