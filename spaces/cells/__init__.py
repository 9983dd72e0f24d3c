"""The networks of the NAS cells: the cell as data, and the network stacked from it."""
