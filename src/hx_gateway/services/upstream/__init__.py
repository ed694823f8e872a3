"""Model servers: how they are called, and what stands in for one."""
