"""What a grid has found, as sections of its report, as sheets for programs and papers, and while it is under way."""
