"""DiffusionJobs as pods of a cluster: watched, planned, started, shown."""
