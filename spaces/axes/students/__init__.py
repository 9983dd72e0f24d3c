"""Student architectures: the baseline made shallower and narrower, and torchvision families."""
