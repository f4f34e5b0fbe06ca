"""`embedstream bench`: what this machine makes of a model, measured on a sample of the corpus."""
