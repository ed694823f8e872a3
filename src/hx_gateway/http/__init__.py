"""HTTP: the protocol at the edge, the way into the pipeline and out of it, health."""
