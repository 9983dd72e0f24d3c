"""What goes to the device: a folder with the file, its metadata, samples and sums; and whether it is still as it
was."""
