"""Serving models: who serves which, and the routes that clients call."""
