"""Source that self-loading exports carry with them: it knows torch alone, and runs where topiclora is not installed."""
