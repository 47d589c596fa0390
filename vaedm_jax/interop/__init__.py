"""Import and export of published PyTorch networks."""
