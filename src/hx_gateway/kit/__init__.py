"""Pure helpers without I/O or settings."""
