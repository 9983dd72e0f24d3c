"""Before a search: what each axis can win on the target."""
