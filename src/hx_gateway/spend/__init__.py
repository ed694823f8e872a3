"""Spend: what calls cost, by whom and why, read and explained; prices and alerts."""
