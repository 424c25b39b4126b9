"""What is kept of what happened: bounded in bytes, whoever fills it."""
