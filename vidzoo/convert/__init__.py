"""Pure functions between state dicts: one file per foreign project, a dict in, a dict out."""
