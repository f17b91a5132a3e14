"""What the stages of a run found, as typed values, and their files."""
