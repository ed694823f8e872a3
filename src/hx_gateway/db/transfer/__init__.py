"""All that is ours in a database, taken out of it and put into another one."""
