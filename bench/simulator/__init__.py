"""Jobs on links that are made up or recorded: the real estimator and law, without time, processes or a network."""
