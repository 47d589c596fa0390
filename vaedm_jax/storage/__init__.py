"""What lies on disk: paths as users write them."""
