"""Measuring a model: lm-evaluation-harness for accuracy, the routers themselves for what they do."""
