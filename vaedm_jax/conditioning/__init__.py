"""Conditions, which the refiner is shown in place of an image, and tasks, which restore images."""
