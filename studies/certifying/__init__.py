"""The front measured again, and what it is worth then."""
