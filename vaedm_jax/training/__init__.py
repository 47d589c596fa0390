"""Training: one loop, one step and one state for both stages."""
