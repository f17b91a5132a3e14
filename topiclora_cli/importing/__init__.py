"""Published checkpoints of mixtures of LoRA, read as adapters of ours that compute the same."""
