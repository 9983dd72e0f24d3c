"""What the commands of ``karui`` share, and those that decide afterwards."""
