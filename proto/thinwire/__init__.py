"""Protobuf packages."""
