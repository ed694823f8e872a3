"""The revisions, oldest first: each is one transaction and works beside the release before it."""
