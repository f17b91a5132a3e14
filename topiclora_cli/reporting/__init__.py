"""Results as people read them: in a terminal, in Markdown, as pages and as pictures."""
