"""From a candidate to its file: the recipe, its steps, their keys, and the cache of what was dear."""
