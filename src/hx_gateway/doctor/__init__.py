"""What ``hx-gateway doctor`` looks at: nothing is started, nothing is changed, no secret is told."""
