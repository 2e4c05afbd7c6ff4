"""Speed, memory and utilization: how they are sampled, and what the samples show."""
