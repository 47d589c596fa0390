"""Measures of the quality of samples: distances between sets of features, and the features themselves."""
