"""What ends a candidate early: rules, and the training that asks them."""
