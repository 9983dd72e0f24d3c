"""What a search has left behind, as tables and values."""
