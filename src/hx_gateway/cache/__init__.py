"""The response cache: which requests are the same one, what is kept of answers, and where."""
