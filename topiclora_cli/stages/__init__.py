"""What a run does, a stage a module: each takes a recipe, a run and a display, and returns a typed result."""
