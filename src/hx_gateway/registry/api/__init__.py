"""The registry over HTTP: parameters, bodies, routes, and who may take them."""
