"""Settings of the property tests."""

from hypothesis import settings

# No deadline: other processes share the machine. No database: failing examples become tests.
settings.register_profile("connector", deadline=None, database=None)
settings.load_profile("connector")
