"""What jobs and endpoints do while they work: their captured answers, logs and metrics."""
