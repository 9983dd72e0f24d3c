"""Networks of inverted-residual stages: the choice as data, the network, and how all of them share weights."""
