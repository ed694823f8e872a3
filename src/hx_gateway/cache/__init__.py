"""Answers that are kept, and given again to those who may see them."""
