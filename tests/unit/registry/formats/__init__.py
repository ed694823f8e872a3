"""Tests of the formats that services are imported from and exported to."""
