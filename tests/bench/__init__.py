"""`make bench`: what the mixture costs beside plain LoRA and beside other mixtures, as ratios."""
