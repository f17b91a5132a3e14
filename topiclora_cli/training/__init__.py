"""Stage 3: from text and priors to a trained adapter."""
