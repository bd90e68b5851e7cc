"""One suite for two implementations: the public neon-mq-connector, and the drop-in names of ours."""
