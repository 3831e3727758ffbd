"""Chain-of-thought data: candidates, chat calls, answers."""
