"""Tests of the connector's modules one by one, without a broker."""
