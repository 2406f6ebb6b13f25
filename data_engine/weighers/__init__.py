"""How the episodes of a selection are weighed: one weigher a file."""
