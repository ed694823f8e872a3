"""Stores that the gateway starts itself when it is given none."""
