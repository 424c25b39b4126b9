"""A kernel change, validated: its states built, tests run on each, and what they said compared."""
