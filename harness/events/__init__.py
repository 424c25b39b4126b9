"""What happened: one stream of typed events on one clock, bounded in bytes, whoever fills it."""
