"""The bench of a study: its task, its targets, and what was measured there."""
