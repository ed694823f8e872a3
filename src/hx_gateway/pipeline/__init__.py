"""The one way through the gateway: an ordered list of stages that every request passes."""
