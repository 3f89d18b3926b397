"""One rank of a job: loads the model, parallelises it with xfuser, exchanges, measures, reports."""
