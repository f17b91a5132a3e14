"""Which part of the method earns its place: a grid of altered recipes, trained and scored alike."""
