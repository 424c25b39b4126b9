"""What shows only in many repetitions. The suite runs a bounded part of each."""
