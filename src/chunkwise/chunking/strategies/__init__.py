"""One way to run chunks per file; the file's name is the command-line word."""
