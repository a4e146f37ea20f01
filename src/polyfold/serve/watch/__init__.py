"""What is told of the work: metrics, drift, logs, traces."""
