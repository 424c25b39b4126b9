"""What people write, read strictly: names, YAML and JSON into dataclasses."""
