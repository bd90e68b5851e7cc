"""Settings of the property tests."""

from hypothesis import HealthCheck, settings

# No deadline, nor one for making up examples: other processes share the machine. No database: failing
# examples become tests.
settings.register_profile(
    "connector", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("connector")
