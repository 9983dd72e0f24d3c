"""One point of a front: chosen under a budget, explained, priced."""
