"""The database's shape: names of schemas and tables, and the partitions of those that grow with time."""
