"""What is run from a clone, beside the program."""
