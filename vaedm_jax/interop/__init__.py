"""Published PyTorch networks in and out."""
