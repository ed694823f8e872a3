"""Wire formats, and the ways from one to another."""
