"""The command ``hx-gateway``: one file a command."""
