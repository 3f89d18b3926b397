"""Tests of transform coding."""
