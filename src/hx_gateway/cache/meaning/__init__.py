"""The cache by meaning: answers to questions that say the same in other words."""
