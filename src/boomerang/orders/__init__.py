"""What a teacher's layers do, how well a student stands in for them, and what follows from it."""
