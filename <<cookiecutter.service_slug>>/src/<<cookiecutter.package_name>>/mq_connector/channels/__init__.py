"""A channel that client and publisher each keep open on a shared connection, and what is under way on it."""
