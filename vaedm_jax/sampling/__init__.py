"""The compiled functions from a seed to images, and the checks of their inputs."""
