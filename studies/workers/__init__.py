"""Worker processes, in which candidates are made and measured."""
