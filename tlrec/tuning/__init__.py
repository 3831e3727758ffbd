"""What the two tuners share."""
