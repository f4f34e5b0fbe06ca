"""Documents topic -> encoder -> embeddings topic."""
