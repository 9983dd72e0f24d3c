"""Where a study is kept: its database, its folder, and files that several machines share."""
