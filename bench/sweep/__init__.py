"""What `python -m bench links` is made of: variants, one run of one of them over shaped links, table and plots."""
