"""One set of weights for all networks of an axis: what it asks of an axis, the weights, and how they are trained."""
