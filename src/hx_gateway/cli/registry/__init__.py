"""``hx-gateway registry``: one file a kind of question to the registry of a running gateway."""
