"""The only way out for a URL that a user gave: what it may name, what it may reach, and within which caps."""
