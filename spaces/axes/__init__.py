"""The axes of the search space, one folder each: what may be chosen, what it means, and what it makes."""
