"""Runs on the same questions: read from lm-eval's files alone, paired by its hash of each question, and tested."""
