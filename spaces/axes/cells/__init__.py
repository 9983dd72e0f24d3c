"""The networks of the NAS cells: the cell as data, the network stacked from it, and how all of them share weights."""
