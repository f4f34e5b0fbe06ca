"""The commands of the command line, one a file; each imports what it runs when it is run."""
