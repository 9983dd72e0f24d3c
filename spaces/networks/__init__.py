"""The user's network as it is run, copied, told apart from others and made plain."""
