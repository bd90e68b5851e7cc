"""The generated service side by side with its peers: ``python -m bench``, or ``make bench``."""
