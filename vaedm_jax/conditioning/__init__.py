"""What the refiner is shown of an image, and how an image is restored from that."""
