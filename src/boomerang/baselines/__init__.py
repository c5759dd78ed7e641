"""What a family is compared with."""
