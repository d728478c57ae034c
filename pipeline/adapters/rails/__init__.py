"""Ways to an acquirer; each file knows one format."""
