"""What the five papers print about the size and the cost of their networks, and how each figure is recomputed."""
