"""What a run is: its folder, manifest, locks and files, and what its stages found."""
