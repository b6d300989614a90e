"""What is published: a run becomes one page, a verdict in words, a summary."""
