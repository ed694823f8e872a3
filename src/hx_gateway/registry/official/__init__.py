"""The official MCP registry's API over the catalogue: what is registered, as `server.json` documents."""
