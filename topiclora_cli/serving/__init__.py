"""What answers over HTTP: a gateway that names the adapter for each prompt, and a run's routed model itself."""
