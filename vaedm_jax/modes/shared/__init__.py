"""What several modes use: opening models, drawing samples in parts, restoration, the bound in bits per dimension."""
