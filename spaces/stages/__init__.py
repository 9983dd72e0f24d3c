"""Networks of inverted-residual stages: the choice as data, the network, and the supernet that shares its weights."""
