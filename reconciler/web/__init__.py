"""The HTTP face: health, metrics and the API. What may not be in here: decisions, git, SQL, processes."""
