"""What is dominated, what a front is worth, and how sure that is beside noise."""
