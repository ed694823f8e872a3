"""The gateway plane: models, where they come from, and the routes that call them."""
