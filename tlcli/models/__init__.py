"""What is trained: a backbone with a head, and which parts of it move."""
