"""Model folders: fetched, verified, loaded and saved, and the log-probabilities that they give."""
