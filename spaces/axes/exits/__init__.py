"""Early exits: inputs that a small head is sure of after the first layers do not run the others."""
