"""The changes of the registry, in the order they were committed in, for whoever follows them."""
